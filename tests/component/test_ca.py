"""``cafs ca``: what it makes is what TLS believes, and nothing is ever written over."""

from __future__ import annotations

import socket
import ssl
import stat
import subprocess
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from cafs.core.settings import Settings
from cafs.errors import StorageError
from cafs.p2p.mutual_tls import load_host_tls
from tests.support.patience import PATIENCE_S
from tests.support.program import run_cafs


def make(folder: Path) -> Path:
    run_cafs("ca", "init", folder, "--name", "test authority")
    return folder


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_an_authority_and_what_it_issues(tmp_path: Path) -> None:
    ca = make(tmp_path / "ca")
    told = run_cafs(
        "ca", "issue", ca, "peer-1", "--address", "127.0.0.1", "--address", "peer.example", "--json"
    )
    assert told.json["addresses"] == ["127.0.0.1", "peer.example"]
    assert mode(ca) == 0o700
    assert mode(ca / "ca.key") == mode(ca / "peer-1.key") == 0o600
    checked = subprocess.run(
        ["openssl", "verify", "-x509_strict", "-CAfile", ca / "ca.pem",
         "-verify_ip", "127.0.0.1", ca / "peer-1.pem"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stderr


def test_a_directory_for_one_host_is_made(tmp_path: Path) -> None:
    """As docs/operations.md says it."""
    ca, out = make(tmp_path / "ca"), tmp_path / "hosts" / "node7"
    run_cafs("ca", "issue", ca, "node7", "--address", "10.0.0.7", "--out", out)
    assert sorted(path.name for path in out.iterdir()) == ["node7.key", "node7.pem"]
    assert (mode(out), mode(out / "node7.key")) == (0o700, 0o600)


def test_nothing_is_written_over(tmp_path: Path) -> None:
    ca = make(tmp_path / "ca")
    before = (ca / "ca.key").read_bytes()
    assert "is there already" in run_cafs("ca", "init", ca, code=1).err
    run_cafs("ca", "issue", ca, "a", "--address", "127.0.0.1")
    assert "is there already" in run_cafs("ca", "issue", ca, "a", "--address", "127.0.0.1", code=1).err
    assert (ca / "ca.key").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("a",), 2, "at least one --address"),
        (("a", "--address", "not an address"), 2, "neither an IP address nor a DNS name"),
        (("../a", "--address", "127.0.0.1"), 2, "a name has letters"),
        (("ca", "--address", "127.0.0.1"), 2, "is not 'ca'"),
        (("a", "--address", "127.0.0.1", "--days", "0"), 2, "days"),
    ],
)
def test_wrong_use(tmp_path: Path, arguments: tuple[str, ...], code: int, says: str) -> None:
    ca = make(tmp_path / "ca")
    assert says in run_cafs("ca", "issue", ca, *arguments, code=code).err
    assert sorted(path.name for path in ca.iterdir()) == ["ca.key", "ca.pem"]


def test_an_authority_that_is_none(tmp_path: Path) -> None:
    assert "does not exist" in run_cafs("ca", "issue", tmp_path, "a", "--address", "::1", code=1).err
    ca = make(tmp_path / "ca")
    run_cafs("ca", "issue", ca, "a", "--address", "127.0.0.1")
    (ca / "a.pem").rename(ca / "ca.pem")
    assert "do not belong together" in run_cafs("ca", "issue", ca, "b", "--address", "::1", code=2).err
    (ca / "a.key").rename(ca / "ca.key")
    assert (
        "not the certificate of an authority"
        in run_cafs("ca", "issue", ca, "b", "--address", "::1", code=2).err
    )


@pytest.mark.parametrize(("authority", "taken"), [("ca", True), ("other", False)])
def test_both_sides_show_certificates(tmp_path: Path, authority: str, taken: bool) -> None:
    """mTLS between two hosts of one authority; a host of another one is turned away."""
    ca = make(tmp_path / "ca")
    clients_ca = ca if authority == "ca" else make(tmp_path / "other")
    run_cafs("ca", "issue", ca, "seed", "--address", "127.0.0.1")
    run_cafs("ca", "issue", clients_ca, "peer", "--address", "127.0.0.1")
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(ca / "ca.pem"))
    server.load_cert_chain(ca / "seed.pem", ca / "seed.key")
    server.verify_mode = ssl.CERT_REQUIRED
    client = ssl.create_default_context(cafile=str(ca / "ca.pem"))
    client.load_cert_chain(clients_ca / "peer.pem", clients_ca / "peer.key")
    ours, theirs = socket.socketpair()
    said = []

    def serve() -> None:
        try:
            with server.wrap_socket(theirs, server_side=True) as secure:
                secure.sendall(b"hello")
        except ssl.SSLError:
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(ours, server_hostname="127.0.0.1") as secure:
            said.append(secure.recv(5))
    except (ssl.SSLError, ConnectionError):
        said.append(b"")
    thread.join(PATIENCE_S)
    assert (said == [b"hello"]) is taken


def test_files_of_a_host_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    ca = make(tmp_path / "ca")
    for name in ("a", "b"):
        run_cafs("ca", "issue", ca, name, "--address", "127.0.0.1")
    (ca / "empty").touch()
    locked = ca / "locked.key"
    subprocess.run(
        ["openssl", "pkey", "-in", ca / "a.key", "-aes256", "-passout", "pass:x", "-out", locked], check=True
    )
    settings = Settings(
        cache_dir=tmp_path, run_dir=tmp_path,
        peer_certificate=str(ca / "a.pem"), peer_key=str(ca / "a.key"), peer_ca=str(ca / "ca.pem"),
    )  # fmt: skip
    assert load_host_tls(settings) is not None
    for changes, says in (
        ({"peer_key": str(ca / "none.key")}, "^peer_key: .*none.key cannot be read"),
        ({"peer_ca": str(ca)}, "^peer_ca: .*cannot be read"),
        ({"peer_key": str(ca / "b.key")}, "the key is another certificate's"),
        ({"peer_key": str(locked)}, "cannot be used"),
        ({"peer_ca": str(ca / "empty")}, "cannot be used"),
    ):
        with pytest.raises(StorageError, match=says):
            load_host_tls(replace(settings, **changes))
