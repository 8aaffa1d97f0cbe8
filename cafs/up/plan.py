"""Which services run, on what addresses, with which options, and which of them waits for which. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from cafs.core.settings import Settings

MANAGER, SCHEDULER, SEED, PEER, MOUNTD, SNAPSHOTTER = (
    "manager",
    "scheduler",
    "seed",
    "peer",
    "mountd",
    "snapshotter",
)
NAMES = (MANAGER, SCHEDULER, SEED, PEER, MOUNTD, SNAPSHOTTER)
"""In the order in which they start; they end in the opposite one."""
SEED_DIRECTORY = "seed"
"""Below ``cache_dir`` and ``run_dir``: the seed is another host than this machine's peer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """HOST:PORT of each."""

    manager: str
    """For services."""
    rest: str
    """For people and programs."""
    scheduler: str
    seed: str
    peer: str


@dataclass(frozen=True, slots=True)
class Service:
    """One process to run."""

    name: str
    arguments: tuple[str, ...]
    """Of ``cafs``."""
    after: tuple[str, ...]
    """Services that must be ready before it starts."""
    where: tuple[tuple[str, str], ...]
    """What it serves, and where."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All that runs."""

    services: tuple[Service, ...]
    left_out: tuple[tuple[str, str], ...]
    """Name, and why."""


def plan_services(
    settings: Settings, addresses: Addresses, left_out: Sequence[tuple[str, str]], usual: Sequence[str]
) -> Plan:
    """What to start.

    Args:
        settings: Of the machine, with the directories that are to be used.
        addresses: Where each listens.
        left_out: Names of services that are not to run, and why.
        usual: Options of every command, before those that wire the services together.
    """
    runs = [name for name in NAMES if name not in dict(left_out)]
    wired = _wiring(runs, settings, addresses)
    made = {
        MANAGER: _manager(settings, addresses),
        SCHEDULER: _scheduler(settings, addresses),
        SEED: _peer(settings, addresses.seed, SEED_DIRECTORY),
        PEER: _peer(settings, addresses.peer, ""),
        MOUNTD: (["mountd"], (), [("socket", str(settings.run_dir / "mountd/mountd.sock"))]),
        SNAPSHOTTER: (
            ["snapshotter"],
            (MOUNTD,),
            [("for containerd", str(settings.run_dir / "snapshotter.sock"))],
        ),
    }
    services = []
    for name in runs:
        arguments, after, where = made[name]
        command, own = arguments[0], arguments[1:]
        services.append(
            Service(
                name,
                (command, *usual, *wired, *own),
                tuple(other for other in after if other in runs),
                tuple(where),
            )
        )
    return Plan(tuple(services), tuple(left_out))


def node_settings(settings: Settings, addresses: Addresses, runs: Collection[str]) -> dict[str, object]:
    """What other commands on this machine need to find these services."""
    found: dict[str, object] = {"cache_dir": str(settings.cache_dir), "run_dir": str(settings.run_dir)}
    found["schedulers"] = [addresses.scheduler] if SCHEDULER in runs else list(settings.schedulers)
    found["managers"] = [addresses.manager] if MANAGER in runs else list(settings.managers)
    found["peer_listen"] = found["peer_address"] = addresses.peer
    return found


_Made = tuple[list[str], tuple[str, ...], list[tuple[str, str]]]


def _wiring(runs: Collection[str], settings: Settings, addresses: Addresses) -> list[str]:
    """For all of them; each looks at what it needs."""
    texts = {
        name: ",".join(value) if isinstance(value, list) else value
        for name, value in node_settings(settings, addresses, runs).items()
        if name not in {"peer_listen", "peer_address"}
    }
    return [f"--set={name}={value}" for name, value in texts.items()]


def _manager(settings: Settings, addresses: Addresses) -> _Made:
    scheme = "https" if settings.peer_certificate else "http"
    words = ["manager", f"--listen={addresses.manager}", f"--rest={addresses.rest}", *_tls(settings)]
    return words, (), [("REST", f"{scheme}://{addresses.rest}"), ("services", addresses.manager)]


def _scheduler(settings: Settings, addresses: Addresses) -> _Made:
    own = f"--set=scheduler_address={addresses.scheduler}"
    words = ["scheduler", f"--listen={addresses.scheduler}", own, *_tls(settings)]
    return words, (), [("hosts", addresses.scheduler)]


def _tls(settings: Settings) -> list[str]:
    """A host that shows other hosts a certificate shows the same one here."""
    if not settings.peer_certificate:
        return []
    files = settings.peer_certificate, settings.peer_key, settings.peer_ca
    return [f"--tls-{name}={file}" for name, file in zip(("cert", "key", "ca"), files, strict=True)]


def _peer(settings: Settings, address: str, below: str) -> _Made:
    words = ["peer", f"--listen={address}", f"--set=peer_address={address}"]
    socket = settings.run_dir / below / "peer/peer.sock"
    if below:
        directories = {"cache_dir": settings.cache_dir / below, "run_dir": settings.run_dir / below}
        words += ["--seed", *(f"--set={name}={path}" for name, path in directories.items())]
    where = [("other hosts", address)]
    return words, (SCHEDULER,), where if below else [*where, ("socket", str(socket))]


def longest_socket(run_dir: Path) -> Path:
    """Of all sockets below it: their paths are bounded."""
    return run_dir / SEED_DIRECTORY / "peer" / "peer.sock"
