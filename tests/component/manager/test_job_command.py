"""``cafs job`` against a manager: what it sends, what it shows, and how it fails."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from tests.support.manager import Manager, options_for, running_manager
from tests.support.program import Outcome, run_cafs

URL = "https://models.test/m.bin"


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Manager, str]]:
    with running_manager(options_for(tmp_path_factory.mktemp("manager"))) as manager:
        yield manager, manager.administrator()


def token_of(asked: tuple[Manager, str], *scopes: str) -> str:
    manager, admin = asked
    body = {"name": "t", "scopes": list(scopes), "days": 1}
    return str(manager.call("POST", "/me/tokens", admin, 201, json=body)["token"])


def job(asked: tuple[Manager, str], token: str, *arguments: str, code: int = 0) -> Outcome:
    url = f"http://127.0.0.1:{asked[0].ports.rest}"
    return run_cafs("job", *arguments, code=code, env={"CAFS_MANAGER_URL": url, "CAFS_MANAGER_TOKEN": token})


def test_options_become_fields(asked: tuple[Manager, str]) -> None:
    token = token_of(asked, "jobs:write", "jobs:read")
    made = job(
        asked, token, "create", "file", URL, "--hosts=30%", "--cluster=2", "--concurrency=7", "--retries=0",
        "--timeout=60", "-H", "X-A: b", "--tag=t", "--application=a", "--filter=sig", "--priority=5",
        f"--digest=sha256:{'1' * 64}", "--json",
    ).json  # fmt: skip
    assert made["spec"] == {
        "url": URL, "digest": "sha256:" + "1" * 64, "tag": "t", "application": "a", "filtered_query": ["sig"],
        "headers": [{"name": "x-a", "value": "b"}], "priority": 5,
    }  # fmt: skip
    told = (made["cluster_id"], made["concurrency"], made["retries"], made["timeout_s"])
    assert told == (2, 7, 0, 60)
    assert (made["scope"]["hosts"], made["scope"]["percent"]) == ("percent", 30)
    # Nobody is there to do it.
    number = str(made["id"])
    assert "no seed that is meant is here" in job(asked, token, "show", number, "--follow", code=1).out
    assert job(asked, token, "show", number, "--json").json["parts"] == []
    assert re.match(rf" +{number}  failed ", job(asked, token, "ls", "--state=failed").out)
    assert "it has failed already" in job(asked, token, "cancel", number, code=1).err
    assert "pending" in job(asked, token, "retry", number).out


def test_schedules_are_added_changed_and_removed(asked: tuple[Manager, str]) -> None:
    token = token_of(asked, "jobs:write", "jobs:read")
    assert job(asked, token, "schedule", "ls").out == "no schedules\n"
    made = job(
        asked, token, "schedule", "add", "image", "registry.test/app:v2", "--start", "--hosts=50%",
        "--name=nightly", "--cron=30 4 * * MON", "--timezone=Europe/Berlin", "--json",
    ).json  # fmt: skip
    assert (made["name"], made["cron"], made["timezone"], made["enabled"]) == (
        "nightly", "30 4 * * MON", "Europe/Berlin", True,
    )  # fmt: skip
    assert (made["job"]["kind"], made["job"]["spec"]["content"]) == ("preheat_image", "start")
    assert (made["job"]["scope"]["percent"], made["job"]["concurrency"]) == (50, 50)
    number = str(made["id"])
    paused = job(
        asked, token, "schedule", "add", "gc", "--idle=60", "--name=tidy", "--cron=0 5 1 1 *", "--paused"
    ).out
    assert re.match(r" +\d+  paused +0 5 1 1 \* UTC  tidy: gc$", paused)
    listed = job(asked, token, "schedule", "ls").out.splitlines()
    assert re.match(
        rf" +{number}  due \S+ 0\d:30 UTC +30 4 \* \* MON Europe/Berlin  nightly: "
        r"preheat_image registry\.test/app:v2$", listed[0],
    )  # fmt: skip
    assert listed[1:] == paused.splitlines()

    changed = job(asked, token, "schedule", "change", number, "--cron=0 0 * * *", "--json").json
    assert (changed["name"], changed["cron"], changed["timezone"]) == (
        "nightly", "0 0 * * *", "Europe/Berlin",
    )  # fmt: skip
    assert "paused" in job(asked, token, "schedule", "pause", number).out
    assert "due" in job(asked, token, "schedule", "resume", number).out
    job(asked, token, "schedule", "change-job", "file", URL, f"--schedule={number}", "--cluster=2")
    shown = job(asked, token, "schedule", "show", number).out
    assert f"nightly: preheat_file {URL}" in shown
    assert "cluster_id: 2" in shown
    assert "last job: none yet" in shown
    removed = job(asked, token, "schedule", "rm", number, "--json").json
    assert removed == {"removed": int(number)}
    assert f"no schedule {number}" in job(asked, token, "schedule", "show", number, code=1).err


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["create", "file", "nothing"], 2, "no scheme"),
        (["create", "file", f"{URL}?token=hunter2"], 2, "credentials"),
        (["create", "file", URL, "--hosts=x%"], 2, "share"),
        (["create", "file", URL, "--hosts=nobody"], 2, "no host nobody"),
        (["create", "file", URL, "--cluster=99"], 1, "no cluster 99"),
        (["create", "file", URL, "--concurrency=0"], 2, "concurrency"),
        (["show", "99"], 1, "no job 99"),
        (["schedule", "add", "sync", "--name=n", "--cron=61 * * * *"], 2, "cron"),
        (["schedule", "add", "sync", "--name=n", "--cron=0 0 * * *", "--timezone=Mars/X"], 2, "Mars/X"),
        (["schedule", "add", "sync", "--cron=0 0 * * *"], 2, "--name"),
        (["schedule", "change", "99"], 2, "nothing is to be changed"),
        (["schedule", "change", "99", "--name=x"], 1, "no schedule 99"),
        (["schedule", "change-job", "gc", "--schedule=99"], 1, "no schedule 99"),
        (["schedule", "rm", "99"], 1, "no schedule 99"),
    ],
)
def test_the_managers_no_is_one_line(
    asked: tuple[Manager, str], arguments: list[str], code: int, word: str
) -> None:
    said = job(asked, token_of(asked, "jobs:write", "jobs:read"), *arguments, code=code).err
    assert word in said
    assert "hunter2" not in said
    assert said.count("\n") == 1


def test_tokens_that_do_not_reach(asked: tuple[Manager, str]) -> None:
    assert "jobs:write" in job(asked, token_of(asked, "jobs:read"), "create", "file", URL, code=1).err
    assert "none of ours" in job(asked, "cafs_personal_x", "ls", code=1).err
    assert "manager_token is missing" in run_cafs("job", "ls", code=2).err


def test_no_manager_and_none_that_is_one(asked: tuple[Manager, str]) -> None:
    for url, code, word in (("http://127.0.0.1:1", 1, "does not answer"), ("nonsense", 1, "does not answer")):
        said = run_cafs("job", "ls", code=code, env={"CAFS_MANAGER_URL": url, "CAFS_MANAGER_TOKEN": "x"}).err
        assert word in said


@contextmanager
def answering(*states: str) -> Iterator[str]:
    """A manager that tells these states of a job, one after the other; of an empty one it tells nothing."""
    left = iter(states)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != "/api/v1/jobs/7":  # a stranger's
                self.send_error(404)
            elif state := next(left):
                hosts = {"succeeded": 0}
                job = {"id": 7, "kind": "gc", "spec": {}, "state": state, "why": "", "hosts": hosts}
                body = json.dumps(job | {"done_bytes": 0, "most_bytes": 0}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = Thread(target=server.serve_forever)
        serving.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            serving.join()


def test_a_job_is_followed_beyond_a_restart_of_its_manager() -> None:
    with answering("running", "", "", "running", "succeeded") as url:
        env = {"CAFS_MANAGER_URL": url, "CAFS_MANAGER_TOKEN": "x"}
        assert " succeeded " in run_cafs("job", "show", "7", "--follow", env=env).out
    with answering("") as url:  # who is not there at first may never be
        env = {"CAFS_MANAGER_URL": url, "CAFS_MANAGER_TOKEN": "x"}
        assert "does not answer" in run_cafs("job", "show", "7", "--follow", code=1, env=env).err
