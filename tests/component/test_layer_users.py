"""Asking containerd and our snapshotter who uses which layers, when they do not answer as they should."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from cafs.containerd.layer_users import find_users
from cafs.errors import ProtocolError


@pytest.fixture
def stranger(short_tmp_path: Path) -> Iterator[Path]:
    """Speaks gRPC, and knows no service."""
    address = short_tmp_path / "s.sock"
    with ThreadPoolExecutor(1) as threads:
        server = grpc.server(threads)
        server.add_insecure_port(f"unix:{address}")
        server.start()
        yield address
        server.stop(None).wait()


async def test_who_is_no_snapshotter_is_told_in_one_line(stranger: Path) -> None:
    with pytest.raises(ProtocolError, match=r"listing snapshots at .*s\.sock"):
        await find_users(stranger, stranger, "cafs")
