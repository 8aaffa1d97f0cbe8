"""Images that are converted by jobs, by the manager's own processes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cafs.manager.jobs.conversions import Converter
from tests.support.container_images import PushedImage, data_layer, push_container_image
from tests.support.faults import FaultyRegistry, Stall
from tests.support.manager import Manager, options_for, running_manager
from tests.support.manager_client import until

ANY = {"If-Match": "*"}
STALLED = Stall()


@pytest.fixture
def manager(tmp_path: Path, database_address: str) -> Iterator[Manager]:
    command = (sys.executable, "-m", "cafs", "convert", f"--set=cache_dir={tmp_path}/c")
    with running_manager(options_for(tmp_path, database_address, converter=Converter(command, 1))) as running:
        yield running


@pytest.fixture
def admin(manager: Manager) -> str:
    return manager.administrator()


def pushed(registry: FaultyRegistry, name: str) -> PushedImage:
    image = push_container_image(registry, f"conversions/{name}", [data_layer(0)])  # type: ignore[arg-type]  # it has a host
    registry.forget()
    return image


def convert(manager: Manager, admin: str, image: str, **more: Any) -> int:
    body = {"kind": "convert", "cluster_id": 1, "spec": {"image": image, **more}, "retries": 0}
    return int(manager.call("POST", "/jobs", admin, 201, json=body)["id"])


def state(manager: Manager, admin: str, number: int) -> str:
    return str(manager.call("GET", f"/jobs/{number}", admin)["state"])


def part(manager: Manager, admin: str, number: int) -> Any:
    [found] = manager.call("GET", f"/jobs/{number}/hosts", admin)["items"]
    return found


def test_it_succeeds_fails_and_is_cancelled(
    manager: Manager, admin: str, faulty_registry: FaultyRegistry
) -> None:
    stuck, good = pushed(faulty_registry, "stuck"), pushed(faulty_registry, "good")
    faulty_registry.fail(STALLED, path="conversions/stuck/", times=None)
    first = convert(manager, admin, stuck.reference)
    faulty_registry.wait_until_asked("conversions/stuck/")
    second = convert(manager, admin, good.reference)
    third = convert(manager, admin, f"{faulty_registry.host}/conversions/none:v1")
    until(lambda: state(manager, admin, second) == "running")
    assert [part(manager, admin, number)["hostname"] for number in (first, second)] == ["manager"] * 2
    manager.call("POST", f"/jobs/{first}/cancel", admin, headers=ANY)  # or nobody would come to the others
    until(lambda: state(manager, admin, second) == "succeeded")
    [made] = part(manager, admin, second)["result"]["images"]
    assert made["image"] == good.manifest.digest
    assert made["artifact"].startswith("sha256:")
    until(lambda: state(manager, admin, third) == "failed")
    assert "none" in part(manager, admin, third)["why"]
    assert state(manager, admin, first) == "cancelled"


def test_what_is_under_way_at_the_end_is_begun_anew(tmp_path: Path, faulty_registry: FaultyRegistry) -> None:
    image = pushed(faulty_registry, "again")
    command = (sys.executable, "-m", "cafs", "convert", f"--set=cache_dir={tmp_path}/c")
    options = options_for(tmp_path, converter=Converter(command, 1))
    faulty_registry.fail(STALLED, path="conversions/again/", times=None)
    with running_manager(options) as manager:
        admin = manager.administrator()
        number = convert(manager, admin, image.reference)
        faulty_registry.wait_until_asked("conversions/again/")
    faulty_registry.heal()
    with running_manager(options) as manager:
        until(lambda: state(manager, admin, number) == "succeeded")


@pytest.mark.parametrize(
    "spec", [{"image": "dir:/etc"}, {"image": "r.test/a:v1", "target": "oci:/tmp/x"}, {"image": "--debug"}]
)
def test_only_images_in_registries(tmp_path: Path, spec: Any) -> None:
    with running_manager(options_for(tmp_path)) as manager:
        body = {"kind": "convert", "cluster_id": 1, "spec": spec}
        answer = manager.ask("POST", "/jobs", manager.administrator(), json=body)
        assert (answer.status_code, answer.json()["type"]) == (422, "urn:cafs:problem:invalid")
