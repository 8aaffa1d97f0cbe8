"""What is shown of jobs and of hosts' parts in them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cafs.manager.console.tables import moment
from cafs.manager.http.paths import CONSOLE

ENDED = frozenset({"succeeded", "failed", "cancelled"})
_WORDS = {
    "preheat_file": "Preheat {url}",
    "preheat_image": "Preheat {image}",
    "convert": "Convert {image}",
    "sync": "Ask what hosts hold",
    "gc": "Collect garbage",
}


def job_row(job: Mapping[str, Any], clusters: Mapping[int, str]) -> dict[str, Any]:
    """A line of the table of jobs."""
    hosts = job["hosts"]
    return {
        "id": job["id"],
        "href": f"{CONSOLE}/jobs/{job['id']}",
        "what": what_of(job),
        "cluster": clusters.get(job["cluster_id"], str(job["cluster_id"])),
        "state": job["state"],
        "hosts": f"{hosts['succeeded']:,} of {sum(hosts.values()):,}",
        "share": bytes_of(job),
        "who": job["who"],
        "created_at": moment(job["created_at"]),
    }


def what_of(job: Mapping[str, Any]) -> str:
    """A job in words."""
    if job["kind"] == "delete":
        return f"Delete {job['spec'].get('url') or job['spec'].get('task_id') or ''}"
    words = _WORDS.get(job["kind"])
    return words.format(**job["spec"]) if words else str(job["kind"])


def bytes_of(part: Mapping[str, Any]) -> str:
    """How many of how many MB; empty while nobody knows."""
    if not part["total_bytes"]:
        return ""
    return f"{part['done_bytes'] / 1e6:,.1f} of {part['total_bytes'] / 1e6:,.1f} MB"


def share_of(job: Mapping[str, Any]) -> float:
    """How far a job is, 0 to 1: by hosts that are done, and by bytes of those that are at it.

    A host that does not know yet how much it is counts as one that has nothing.
    """
    hosts = job["hosts"]
    count = sum(hosts.values())
    if not count:
        return 1.0 if job["state"] == "succeeded" else 0.0
    ended = (hosts["succeeded"] + hosts["failed"] + hosts["cancelled"]) / count
    whole = job["most_bytes"] * count
    fetched = min(1.0, job["done_bytes"] / whole) if whole else 0.0
    return float(max(ended, fetched))


def part_row(part: Mapping[str, Any]) -> dict[str, Any]:
    """A line of the table of a job's hosts."""
    return {
        "id": part["host_id"],
        "href": f"{CONSOLE}/hosts/{part['host_id']}",
        "hostname": part["hostname"] or part["host_id"][:12],
        "state": part["state"],
        "share": bytes_of(part),
        "done": part["done_bytes"],
        "attempt": part["attempt"],
        "why": part["why"],
    }
