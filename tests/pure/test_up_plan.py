"""What ``cafs up`` would run, and when it runs it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafs.cli.config import load_settings
from cafs.cli.listening import take_addresses
from cafs.core.settings import Settings
from cafs.errors import StateError, UsageError
from cafs.up.keep import LONGEST_PAUSE_S, how_it_ended, pause_s
from cafs.up.lines import last_word
from cafs.up.machine import left_out
from cafs.up.plan import NAMES, Addresses, Plan, node_settings, plan_services

PLACES = Addresses(
    manager="127.0.0.1:1", rest="127.0.0.1:2", scheduler="127.0.0.1:3", seed="127.0.0.1:4", peer="127.0.0.1:5"
)


def settings_of(plan: Plan, name: str) -> Settings:
    """As the command itself reads them."""
    [service] = [service for service in plan.services if service.name == name]
    flags = [word.removeprefix("--set=") for word in service.arguments if word.startswith("--set=")]
    return load_settings({}, is_root=True, flags=flags)


def planned(*left_out: str, **changes: Any) -> Plan:
    settings = Settings(cache_dir=Path("/d"), run_dir=Path("/d/run"), **changes)
    return plan_services(settings, PLACES, [(name, "") for name in left_out], ["--set=idc=here"])


def test_they_find_each_other_by_ordinary_settings() -> None:
    plan = planned()
    assert [service.name for service in plan.services] == list(NAMES)
    for name in NAMES:
        settings = settings_of(plan, name)
        assert (settings.schedulers, settings.managers) == ((PLACES.scheduler,), (PLACES.manager,))
        assert settings.idc == "here"
    seed, peer = settings_of(plan, "seed"), settings_of(plan, "peer")
    assert (peer.cache_dir, peer.run_dir) == (Path("/d"), Path("/d/run"))
    assert (seed.cache_dir, seed.run_dir) == (Path("/d/seed"), Path("/d/run/seed"))
    assert settings_of(plan, "scheduler").scheduler_address == PLACES.scheduler


def test_nobody_waits_for_or_names_what_does_not_run() -> None:
    plan = planned("manager", "scheduler", "mountd")
    assert [service.name for service in plan.services] == ["seed", "peer", "snapshotter"]
    assert {service.after for service in plan.services} == {()}
    assert settings_of(plan, "peer").schedulers == settings_of(plan, "peer").managers == ()


def test_what_does_not_run_here_is_where_the_configuration_says() -> None:
    plan = planned("manager", "scheduler", "seed", schedulers=("10.0.0.1:3",), managers=("10.0.0.1:1",))
    for name in ("peer", "mountd", "snapshotter"):
        settings = settings_of(plan, name)
        assert (settings.schedulers, settings.managers) == (("10.0.0.1:3",), ("10.0.0.1:1",))


def test_a_host_with_certificates_shows_them_everywhere() -> None:
    plan = planned(peer_certificate="/c", peer_key="/k", peer_ca="/a")
    for service in plan.services[:2]:
        assert service.arguments[-3:] == ("--tls-cert=/c", "--tls-key=/k", "--tls-ca=/a")
    assert plan.services[0].where[0] == ("REST", "https://127.0.0.1:2")


def test_other_commands_are_told_the_same() -> None:
    found = node_settings(Settings(cache_dir=Path("/d"), run_dir=Path("/d/run")), PLACES, ["peer"])
    assert (found["schedulers"], found["managers"]) == ([], [])
    assert found["peer_listen"] == found["peer_address"] == PLACES.peer


def test_the_snapshotter_needs_root() -> None:
    assert [name for name, _ in left_out(["peer"], is_root=False)] == ["peer", "snapshotter"]
    assert left_out([], is_root=True) == []


@given(st.integers(1, 10_000))
def test_pauses_grow_to_a_bound(deaths: int) -> None:
    assert 0.5 <= pause_s(deaths) <= pause_s(deaths + 1) <= LONGEST_PAUSE_S


def test_words() -> None:
    assert (how_it_ended(-9), how_it_ended(3)) == ("killed by SIGKILL", "exit code 3")
    assert last_word("cafs: no such file") == "no such file"
    assert last_word("cafs: WARNING: x") is last_word("what else") is None


@pytest.mark.parametrize("text", ["0.0.0.0:1", "[::]:1", "localhost:1", "127.0.0.1:x", "192.0.2.1:1"])
def test_addresses_that_no_service_can_have(text: str) -> None:
    with pytest.raises(UsageError, match="--peer"):
        take_addresses({"--peer": text})


def test_port_0_is_a_free_one_for_each() -> None:
    taken = take_addresses({f"--{number}": "127.0.0.1:0" for number in range(20)})
    assert len(set(taken.values())) == 20
    assert all(int(address.removeprefix("127.0.0.1:")) > 0 for address in taken.values())
    first = taken["--0"]
    with pytest.raises(StateError, match=f"^{first} is taken: choose another address with --b HOST:PORT"):
        take_addresses({"--a": first, "--b": first})
    assert take_addresses({"--peer": "[::1]:0"})["--peer"].startswith("[::1]:")
