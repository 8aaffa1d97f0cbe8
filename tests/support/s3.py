"""A real S3 server (moto's) in a process of its own, with one bucket."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.support.patience import PATIENCE_S
from tests.support.ports import chosen_port


@contextmanager
def s3_bucket(folder: Path, objects: Mapping[str, bytes]) -> Iterator[dict[str, str]]:
    """Serve ``s3://bucket`` with these objects, those below ``open/`` to anybody.

    Gives the variables that lead clients there.
    """
    port = chosen_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with (folder / "s3.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=os.environ)
    try:
        _wait_for(port, process)
        _put(f"{url}/bucket", b"")
        for key, body in objects.items():
            _put(f"{url}/bucket/{key}", body, "public-read" if key.startswith("open/") else "private")
        yield {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "who",
            "AWS_SECRET_ACCESS_KEY": "s3cr3t",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
    finally:
        process.kill()
        process.wait()


def _put(url: str, body: bytes, acl: str = "private") -> None:
    # A type, or else the body is parsed as a form, for minutes.
    headers = {"Content-Type": "application/octet-stream", "x-amz-acl": acl}
    request = urllib.request.Request(url, data=body, headers=headers, method="PUT")
    urllib.request.urlopen(request, timeout=PATIENCE_S).close()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            assert process.poll() is None, "the S3 server ended"
            assert time.monotonic() < give_up, f"no S3 server within {PATIENCE_S} s"
            time.sleep(0.05)  # another process cannot be waited for
        else:
            return
