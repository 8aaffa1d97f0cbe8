"""Parts of the demo that do not need a cluster."""

from __future__ import annotations

import socket
import threading

from rich.console import Console

from demo.cluster import Bytes
from demo.relay import relayed
from demo.shared_start import Arrived, Together
from demo.tables import where_bytes_came_from
from tests.support.patience import PATIENCE_S


def test_a_relay_carries_both_ways_and_ends() -> None:
    with socket.create_server(("127.0.0.1", 0)) as there:

        def echo() -> None:
            connection, _ = there.accept()
            with connection:
                while data := connection.recv(1 << 16):
                    connection.sendall(data.upper())

        thread = threading.Thread(target=echo)
        thread.start()
        with relayed((), "127.0.0.1", there.getsockname()[1]) as port:
            with socket.create_connection(("127.0.0.1", port), 30) as near:
                near.sendall(b"hello")
                assert near.recv(5, socket.MSG_WAITALL) == b"HELLO"
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


def test_the_table_adds_up() -> None:
    hosts = [
        Arrived("host 1", 1.25, Bytes(2_000_000, 0, 5_000_000)),
        Arrived("seed", None, Bytes(1_500_000, 0, 0)),
    ]
    console = Console(width=120)
    with console.capture() as shown:
        console.print(where_bytes_came_from("Title", "answered", Together(hosts, 3_600_000)))
    last = next(line for line in shown.get().splitlines() if "in all" in line)
    assert last.split()[3:] == ["│", "│", "3.5", "MB", "│", "0.0", "MB", "│", "5.0", "MB", "│"]
    assert "1.25 s" in shown.get()
    assert Bytes(5, 6, 7).since(Bytes(1, 2, 3)) == Bytes(4, 4, 4)
