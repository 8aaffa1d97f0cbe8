"""What ``cafs top`` shows of a peer's status."""

from __future__ import annotations

from typing import Any

from cafs.cli.top import page

ID = "ab" * 32
MIB = 1 << 20


def seen(
    at: float, peer_mib: int, source_mib: int, *, running: bool = True, parents: int = 2
) -> dict[str, Any]:
    given = {f"10.0.0.{n}:65002": peer_mib * MIB if n == 1 else 0 for n in range(1, parents + 1)}
    task = {
        "id": ID, "url": "http://o.example/f", "digest": None, "pieces": 8, "used_at": 1.0,
        "pieces_here": peer_mib + source_mib, "held_bytes": (peer_mib + source_mib) * MIB,
    }  # fmt: skip
    other = {**task, "id": "cd" * 32, "url": "http://o.example/g", "used_at": 2.0, "pieces": None}
    figures = {"peer_bytes": peer_mib * MIB, "source_bytes": source_mib * MIB}
    status = {
        "type": "normal", "host_id": "0" * 32, "schedulers": ["s:1"], "resident_bytes": 50 * MIB, "up_s": 9,
        "uploads": 0, "upload_bytes": 0, "downloads": {**figures, "active": 1},
        "chunks": {"peer_bytes": 0, "source_bytes": 0}, "downloading": [ID] if running else [],
        "traffic": {ID: {**figures, "parents": given}},
    }  # fmt: skip
    return {"at": at, "status": status, "tasks": [other, task]}


def test_tasks_with_parents_rates_and_shares() -> None:
    lines = page(seen(12.0, 6, 2), seen(10.0, 2, 2))
    assert lines[0] == "normal 000000000000, 1 schedulers, 50.0 MiB resident, up 9 s"
    assert lines[1] == "pieces  from hosts 6.00 MiB (2.00 MiB/s), from origins 2.00 MiB"
    assert lines[5:] == [
        "* abababababab          8/8    8.00 MiB  http://o.example/f",
        "      75% from hosts: 6.00 MiB (2.00 MiB/s); from the source: 2.00 MiB",
        "      parents: 10.0.0.1:65002 6.00 MiB (2.00 MiB/s), 10.0.0.2:65002 0 B",
        "  cdcdcdcdcdcd          8/?    8.00 MiB  http://o.example/g",
    ]


def test_the_first_look_knows_no_rates_and_a_new_task_was_nothing_before() -> None:
    assert not any("/s)" in line for line in page(seen(1.0, 1, 0), None))
    before = seen(0.0, 0, 0)
    before["status"]["traffic"] = {}
    assert "100% from hosts: 4.00 MiB (4.00 MiB/s)" in "\n".join(page(seen(1.0, 4, 0), before))


def test_nothing_yet_and_many_parents() -> None:
    text = "\n".join(page(seen(1.0, 0, 0, running=False, parents=9), None))
    assert "nothing from hosts: 0 B; from the source: 0 B" in text
    assert ", 5 more" in text
    assert "*" not in text
