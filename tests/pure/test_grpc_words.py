"""What gRPC's core writes of its own accord: lines as it wrote them."""

import pytest

from cafs.daemon.grpc_words import failed_handshake

PLACE = b"I1130 18:06:33.591093    1826 ssl_transport_security.cc:2563] "
HEAD = PLACE + b"Handshake failed with error SSL_ERROR_SSL: "
SSL = HEAD + b"error:1000007d:SSL routines:OPENSSL_internal:"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (
            SSL + b"PEER_DID_NOT_RETURN_A_CERTIFICATE: Invalid certificate verification context\n",
            "peer did not return a certificate",
        ),
        (
            SSL + b"CERTIFICATE_VERIFY_FAILED: unable to get local issuer certificate\n",
            "certificate verify failed: unable to get local issuer certificate",
        ),
        (SSL + b"WRONG_VERSION_NUMBER", "wrong version number"),
        (HEAD + b"something new", "something new"),
        (HEAD.rstrip(), "it broke off"),
        (
            HEAD.replace(b"ssl_transport_security", b"chttp2_server") + b"x",
            None,
        ),
        (b"Traceback (most recent call last):\n", None),
        (b"\xff\n", None),
        (b"", None),
    ],
)
def test_failed_handshakes(line: bytes, why: str | None) -> None:
    assert failed_handshake(line) == why
