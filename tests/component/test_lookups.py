"""Names whose server does not answer, looked up in a network of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ASKING = """
import socket, sys, trio
from cafs.http11 import lookups

async def refused(name):
    try:
        await trio.socket.getaddrinfo(name, 80)
    except OSError as e:
        print("refused", e.errno == socket.EAI_AGAIN, flush=True)

async def main():
    lookups.use_own_lookups()
    silent = trio.socket.socket(type=socket.SOCK_DGRAM)
    await silent.bind(("127.0.0.1", 53))
    asked = set()
    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(refused, f"host.{number % 50}.test")
        while len(asked) < 50:
            question = await silent.recv(512)
            asked.add(question[12:].split(b"\\x04test")[0])
        await trio.to_thread.run_sync(int)
        print("others have threads", flush=True)
        nursery.start_soon(refused, "third.test")
        while b"third" not in await silent.recv(512):
            pass
        print("other names are looked up", flush=True)
        nursery.cancel_scope.cancel()
    lookups.LOOKUP_S = 0.5
    await refused("last.test")

trio.run(main)
"""


def test_a_silent_name_server_holds_up_nobody_else(tmp_path: Path) -> None:
    resolv = tmp_path / "resolv.conf"
    resolv.write_text("nameserver 127.0.0.1\noptions timeout:30 attempts:5\n")
    script = f'mount --bind {resolv} /etc/resolv.conf && ip link set lo up && exec "$@"'
    done = subprocess.run(
        ["unshare", "--net", "--mount", "sh", "-c", script, "sh", sys.executable, "-c", ASKING],
        capture_output=True,
        text=True,
        check=True,
        timeout=90,
    )
    assert done.stdout.splitlines() == [
        "others have threads",
        "other names are looked up",
        "refused True",
    ]
