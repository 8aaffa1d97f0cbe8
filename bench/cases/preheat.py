"""A manager's job preheats an image to eight hosts, beside these fetching the same bytes themselves."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from bench.manager.running import RunningManager, open_manager
from bench.measure import interleave, median
from bench.peers.cluster import Node, open_cluster
from bench.peers.disk import memory_disk
from bench.peers.random_image import make_random_image
from bench.place import Place
from bench.report import Result, Row, format_seconds
from demo.cafs_command import CafsHome
from demo.process import DemoError, run
from demo.registry import ANY_ADDRESS, PORT, Registry, serve_registry
from demo.switch import Port, open_switch

HOSTS, MBIT_PER_S = 8, 200
LAYERS = 4
IMAGE_BYTES = int(os.environ.get("CAFS_BENCH_PREHEAT_BYTES", str(192 << 20)))
MOST_TIMES = 1.1
_PATIENCE_S = 60.0
_LOOK_S = 0.5
"""As `cafs job --follow` does. Ten times a second cost the hosts 1.5 s of a core in 20 s."""
_ACTIVE = frozenset(["pending", "running"])
_KINDS = {"plain": "an image as it is", "lazy": "a converted image"}


@dataclass(frozen=True, slots=True)
class Taken:
    """One sample."""

    seconds: float
    """Until the last host had all."""
    copies: float
    """Of the image's files, that left the registry's port, headers and all."""


def run_case(place: Place) -> Result:
    layout = make_random_image(place.path, "v1", LAYERS, IMAGE_BYTES // LAYERS)
    with (
        open_switch([MBIT_PER_S, 0, *[MBIT_PER_S] * HOSTS]) as ports,
        serve_registry(place.path, ports[0].inside, ANY_ADDRESS) as registry,
    ):
        for kind in _KINDS:
            registry.push(layout, "v1", f"bench/{kind}:v1")
        near = CafsHome(place.path / "near", registry.enter, (registry.local,))
        made = json.loads(near.call("convert", "--json", f"docker://{registry.local}/bench/lazy:v1"))
        manifests = {"plain": "v1", "lazy": made[0]["artifact"]}
        host = f"{ports[0].address}:{PORT}"
        turns: dict[str, Callable[[], Taken]] = {}
        for kind, manifest in manifests.items():
            blobs = _blobs(registry, f"bench/{kind}", manifest, host)
            ways = {
                f"{kind} by themselves": partial(_fetch, blobs),
                f"{kind} by a job": partial(_do, f"{host}/bench/{kind}:v1"),
            }
            turns |= {name: partial(_sample, place, ports, name, bring) for name, bring in ways.items()}
        taken = interleave(turns, place.rounds)
    samples = {name: [one.seconds for one in all_of] for name, all_of in taken.items()}
    return Result(
        "preheat",
        f"An image preheated to {HOSTS} hosts",
        f"An image of {LAYERS} layers and {IMAGE_BYTES / 1e6:.0f} MB that do not compress, in a registry;"
        f" network namespaces on one switch, {MBIT_PER_S} Mbit/s in each direction for every host and the"
        " registry; scheduler and `cafs manager` (SQLite) share a port of their own. A job (`preheat_image`)"
        " from the request to REST until it is `succeeded` there: manifests, configuration and layers; of a"
        " converted image the indexes, and all chunks in each host's store. The rival: their peers"
        " are asked at once for the same blobs (layers; of a converted one indexes and chunk blobs) until"
        " the last byte has been read. All is new each time, and files are in memory: here hosts would"
        " share one disk. All hosts share this machine's cores. Copies are of all that left the registry's"
        " port, headers too; the worst round counts.",
        tuple(row for kind in _KINDS for row in _rows(kind, taken)),
        samples,
    )  # fmt: skip


def _rows(kind: str, taken: dict[str, list[Taken]]) -> tuple[Row, Row]:
    job, themselves = taken[f"{kind} by a job"], taken[f"{kind} by themselves"]
    ours, theirs = [one.seconds for one in job], [one.seconds for one in themselves]
    ratio = median(ours) / median(theirs)
    copies, their_copies = (max(one.copies for one in every) for every in (job, themselves))
    return (
        Row(f"{_KINDS[kind]}: until all have it", format_seconds(ours),
            f"by themselves {format_seconds(theirs)}", f"{ratio:.2f}", f"at most {MOST_TIMES}",
            ratio <= MOST_TIMES),
        Row(f"{_KINDS[kind]}: sent by the registry", f"{copies:.3f} copies",
            f"by themselves {their_copies:.3f} copies", "", "", None),
    )  # fmt: skip


def _blobs(registry: Registry, repository: str, manifest: str, host: str) -> list[tuple[str, str]]:
    """URL at ``host`` and digest of each blob that a manifest lists as layer."""
    url = f"http://{registry.local}/v2/{repository}/manifests/{manifest}"
    accept = "Accept: application/vnd.oci.image.manifest.v1+json"
    document = json.loads(run([*registry.enter, "curl", "-sf", "-H", accept, url]))
    digests = [layer["digest"] for layer in document["layers"]]
    return [(f"http://{host}/v2/{repository}/blobs/{digest}", digest) for digest in digests]


def _sample(
    place: Place, ports: list[Port], name: str, bring: Callable[[Sequence[Node], RunningManager], None]
) -> Taken:
    """New peers, a new scheduler and a new manager, and the image brought once."""
    at_registry, at_control, *hosts = ports
    with (
        memory_disk(place.path / "swarm", HOSTS * 3 * IMAGE_BYTES) as folder,
        open_cluster(folder) as cluster,
        open_manager(folder / "manager", at_control.address, at_control.inside) as manager,
    ):
        cluster.insecure = (f"{at_registry.address}:{PORT}",)
        cluster.settings = (f"managers={manager.services}",)
        cluster.start_scheduler(at_control.address, at_control.inside)
        nodes = [cluster.start_peer(f"h{n}", port.address, port.inside) for n, port in enumerate(hosts)]
        manager.await_hosts(HOSTS, _PATIENCE_S)
        manager.wait(
            lambda: all(node.status()["schedulers"] for node in nodes),
            "a scheduler at all hosts",
            _PATIENCE_S,
        )
        before, began = at_registry.sent_bytes(), time.perf_counter()
        bring(nodes, manager)
        seconds = time.perf_counter() - began
        taken = Taken(seconds, (at_registry.sent_bytes() - before) / IMAGE_BYTES)
    place.say(f"{name}: {seconds:.1f} s, {taken.copies:.3f} copies")
    return taken


def _fetch(blobs: Sequence[tuple[str, str]], nodes: Sequence[Node], _manager: RunningManager) -> None:
    with ThreadPoolExecutor(len(nodes) * len(blobs)) as threads:
        wishes = [threads.submit(node.fetch, url, digest=digest) for node in nodes for url, digest in blobs]
    for wish in wishes:
        wish.result()


def _do(image: str, _nodes: Sequence[Node], manager: RunningManager) -> None:
    body = {"kind": "preheat_image", "cluster_id": 1, "retries": 0, "spec": {"image": image}}
    job: dict[str, Any] = manager.call("POST", "/jobs", json=body)
    while job["state"] in _ACTIVE:
        time.sleep(_LOOK_S)
        job = manager.call("GET", f"/jobs/{job['id']}")
    if job["state"] != "succeeded":
        parts = manager.call("GET", f"/jobs/{job['id']}/hosts")["items"]
        raise DemoError(f"the job has {job['state']}: {'; '.join({part['why'] for part in parts})}")
