"""A real docker-registry (Debian's) in a temporary folder, on a port of its own choosing.

Deleting is enabled; the registry has no Referrers API, as in Debian 12. Ended by its own pid.
"""

from __future__ import annotations

import json
import os
import re
import selectors
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.patience import PATIENCE_S

USER, PASSWORD, NEXT_PASSWORD = "alice", "sesame", "tahini"
# Made by: htpasswd -nbB -C 4 alice sesame
_HTPASSWD = "alice:$2b$04$wu3.bCfbiGpCDCLKlSImLuTUxNl1WCUcdCjkbKdFOWOAiJRKN02Ra\n"
_NEXT_HTPASSWD = "alice:$2b$04$wu3.bCfbiGpCDCLKlSImLuuvwOyo4QvmJDDDy3y0jd4.x5yEs2Cgq\n"


@dataclass(frozen=True)
class TokenService:
    """What a registry must know of the token server whose tokens it takes."""

    realm: str
    service: str
    issuer: str
    certificate: Path


@dataclass
class Registry:
    """A running registry."""

    host: str
    """``HOST:PORT``, the first part of its references."""
    folder: Path
    process: subprocess.Popen[bytes] = field(repr=False)

    @property
    def url(self) -> str:
        """``http://HOST:PORT``."""
        return f"http://{self.host}"

    @property
    def pid(self) -> int:
        """The server's process."""
        return self.process.pid

    def blob_path(self, digest: str) -> Path:
        """Where it keeps a blob, for tests that damage one behind its back."""
        algorithm, _, value = digest.partition(":")
        return self.folder / "data/docker/registry/v2/blobs" / algorithm / value[:2] / value / "data"

    def link_path(self, repository: str, digest: str) -> Path:
        """The file by which a repository has a blob: it holds the digest."""
        algorithm, _, value = digest.partition(":")
        layers = self.folder / "data/docker/registry/v2/repositories" / repository / "_layers"
        return layers / algorithm / value / "link"

    def change_password(self) -> None:
        """From now on USER needs NEXT_PASSWORD: with basic authentication every request reads the file."""
        (self.folder / "htpasswd").write_text(_NEXT_HTPASSWD)

    def log(self) -> str:
        """What it has logged so far: one line for each request among others."""
        return (self.folder / "log").read_text()

    def stop(self) -> None:
        """End it and wait for its end."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start_registry(
    folder: Path, *, address: str = "127.0.0.1", basic_auth: bool = False, tokens: TokenService | None = None
) -> Registry:
    """Start a registry that keeps everything under ``folder``, and wait until it listens."""
    folder.mkdir(parents=True, exist_ok=True)
    configuration = folder / "config.yml"
    # JSON is YAML.
    configuration.write_text(json.dumps(_configuration(folder, address, basic_auth, tokens)))
    log_path = folder / "log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            ["docker-registry", "serve", str(configuration)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "OTEL_TRACES_EXPORTER": "none"},
        )
    try:
        port = _wait_for_port(process, log_path)
    except BaseException:
        process.kill()
        process.wait()
        raise
    return Registry(f"{address}:{port}", folder, process)


def _configuration(
    folder: Path, address: str, basic_auth: bool, tokens: TokenService | None
) -> dict[str, object]:
    configuration: dict[str, object] = {
        "version": 0.1,
        "log": {"level": "info", "accesslog": {"disabled": False}},
        "storage": {
            "filesystem": {"rootdirectory": str(folder / "data")},
            "delete": {"enabled": True},
            "maintenance": {"uploadpurging": {"enabled": False}},
        },
        # Port 0: the kernel chooses, the log tells. No port can be taken in between.
        "http": {"addr": f"{address}:0", "secret": "only for tests"},
    }
    if basic_auth:
        htpasswd = folder / "htpasswd"
        htpasswd.write_text(_HTPASSWD)
        configuration["auth"] = {"htpasswd": {"realm": "test", "path": str(htpasswd)}}
    if tokens is not None:
        configuration["auth"] = {
            "token": {
                "realm": tokens.realm,
                "service": tokens.service,
                "issuer": tokens.issuer,
                "rootcertbundle": str(tokens.certificate),
            }
        }
    return configuration


def _wait_for_port(process: subprocess.Popen[bytes], log_path: Path) -> int:
    """Wait for the log line that tells the port, or for the process's early end."""
    give_up = time.monotonic() + PATIENCE_S
    ended = os.pidfd_open(process.pid)
    with selectors.DefaultSelector() as selector:
        selector.register(ended, selectors.EVENT_READ)
        try:
            while time.monotonic() < give_up:
                text = log_path.read_text()
                if found := re.search(r'listening on [^"]*:(\d+)(?:, tls)?"', text):
                    return int(found[1])
                # A file cannot be waited for; the end of the process can.
                if selector.select(timeout=0.02):
                    raise RuntimeError(f"docker-registry ended at once:\n{text}")
        finally:
            os.close(ended)
    raise RuntimeError(f"docker-registry did not listen within {PATIENCE_S} s:\n{log_path.read_text()}")
