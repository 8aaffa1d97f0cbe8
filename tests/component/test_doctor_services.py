"""The doctor at services and registries: what is set up, who answers, how a registry behaves."""

from __future__ import annotations

import json
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cafs.core.settings import Settings
from cafs.node.containerd_config import parse_containerd_config
from cafs.node.service_survey import survey_containerd
from tests.support.container_images import base_layer, push_container_image
from tests.support.faults import FaultyRegistry, Stall
from tests.support.oci import log_in
from tests.support.program import run_cafs
from tests.support.registry import Registry


def configured(folder: Path) -> Path:
    """A containerd configuration with our snapshotter at ``folder/s.sock`` and a plain registry."""
    hosts = folder / "certs.d"
    for name, server in (
        ("reg.lan:5000", "http://reg.lan:5000"),
        ("tls.lan", "https://tls.lan"),
        ("odd", "= 1"),
    ):
        (hosts / name).mkdir(parents=True)
        text = f'server = "{server}"' if name != "odd" else server
        (hosts / name / "hosts.toml").write_text(text)
    path = folder / "config.toml"
    path.write_text(
        'version = 2\n[plugins."io.containerd.grpc.v1.cri".registry]\n'
        f'config_path = "{hosts}"\n[proxy_plugins.cafs]\ntype = "snapshot"\naddress = "{folder}/s.sock"\n'
    )
    return path


def test_services_are_asked_where_containerd_looks(short_tmp_path: Path) -> None:
    settings = Settings(cache_dir=short_tmp_path, run_dir=short_tmp_path)
    path = configured(short_tmp_path)
    facts = survey_containerd(path, settings)
    assert facts is not None
    assert facts.services is not None
    assert facts.services.snapshotter == "No such file or directory"
    assert facts.services.mountd == "No such file or directory"
    assert facts.services.plain_registries == ("reg.lan:5000",)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(f"{short_tmp_path}/s.sock")
        listener.listen()
        facts = survey_containerd(path, settings)
    assert facts is not None
    assert facts.services is not None
    assert facts.services.snapshotter == ""


def test_the_doctor_reads_the_configuration_it_is_given(short_tmp_path: Path) -> None:
    path = configured(short_tmp_path)
    outcome = run_cafs("doctor", "--containerd-config", path, code=1)
    assert f"nobody answers at {short_tmp_path}/s.sock" in outcome.out


MAIN = """version = 2
disabled_plugins = ["io.containerd.internal.v1.opt"]
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "cafs"
disable_snapshot_annotations = false
"""
PROXY = """version = 2
[proxy_plugins.cafs]
type = "snapshot"
address = "/run/cafs/snapshotter.sock"
"""


IMPORTS = 'imports = ["../more.toml", "../config.toml"]\n'
CRI = 'plugins."io.containerd.grpc.v1.cri"'


@pytest.mark.parametrize(
    "drop_in",
    [
        IMPORTS,
        f'{IMPORTS}[{CRI}.registry]\nconfig_path = "/certs"\n',
        f'[{CRI}.containerd]\nsnapshotter = "native"\n',
        f'{IMPORTS}disabled_plugins = ["io.containerd.snapshotter.v1.zfs"]\n',
    ],
)
def test_imports_are_read_as_containerd_reads_them(tmp_path: Path, drop_in: str) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "config.toml").write_text(f'imports = ["{tmp_path}/conf.d/*.toml"]\n{MAIN}')
    (tmp_path / "conf.d/a.toml").write_text(f"version = 2\n{drop_in}")
    (tmp_path / "more.toml").write_text(PROXY)
    facts = survey_containerd(tmp_path / "config.toml", Settings(cache_dir=tmp_path, run_dir=tmp_path))
    assert facts is not None
    assert facts.config is not None
    command = ["containerd", "--config", str(tmp_path / "config.toml"), "config", "dump"]
    dump = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert facts.config == parse_containerd_config([dump])


def test_an_import_that_is_not_there_is_named(tmp_path: Path) -> None:
    """containerd does not start with it."""
    (tmp_path / "config.toml").write_text(f'version = 2\nimports = ["{tmp_path}/gone.toml", "none*.toml"]\n')
    outcome = run_cafs("doctor", "--containerd-config", tmp_path / "config.toml")
    assert f"config.toml: No such file or directory: {tmp_path}/gone.toml" in outcome.out


def asked(registry: str, *flags: str, code: int = 0) -> dict[str, Any]:
    document = json.loads(run_cafs("doctor", "--json", "--registry", registry, *flags, code=code).out)
    return {finding["subject"]: finding for finding in document["findings"]}


def test_a_registry_is_reached(docker_registry: Registry) -> None:
    found = asked(docker_registry.host)
    assert found["registry"]["what"] == f"{docker_registry.host} answers, in plain HTTP"
    assert {finding["level"] for finding in found.values()} == {"ok"}


@pytest.mark.parametrize("kind", ["basic_registry", "token_registry"])
def test_a_login_that_is_missing_is_told(
    request: pytest.FixtureRequest, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry: Registry = request.getfixturevalue(kind)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    found = asked(registry.host, code=1)
    assert found["registry"]["level"] == "ok"
    assert f"docker login {registry.host}" in found["login"]["mend"]
    log_in(tmp_path, monkeypatch, registry.host)
    assert asked(registry.host)["login"]["level"] == "ok"


def test_an_image_that_is_not_converted_and_then_is(docker_registry: Registry) -> None:
    image = push_container_image(docker_registry, "doctor/image", [base_layer()]).reference
    found = asked(image)
    assert (found["image"]["level"], found["converted"]["level"]) == ("ok", "warn")
    assert "cafs convert" in found["converted"]["mend"]
    assert "referrers tag" in found["referrers"]["what"]
    run_cafs("convert", image)
    assert asked(image)["converted"]["what"] == "layers that can be lazy: 1"
    assert asked(f"{docker_registry.host}/doctor/nothing:v1", code=1)["image"]["level"] == "fail"


def test_a_registry_that_does_not_answer(faulty_registry: FaultyRegistry) -> None:
    faulty_registry.fail(Stall(0))
    flags = ("--set=stall_timeout_s=0.5", "--set=retries=0")
    assert asked(faulty_registry.host, *flags, code=1)["registry"]["level"] == "fail"
    assert asked("127.0.0.1:1", *flags, code=1)["registry"]["level"] == "fail"
    run_cafs("doctor", "--registry", "no host", code=2)
    run_cafs("doctor", "--registry", "oci:/x/y", code=2)
