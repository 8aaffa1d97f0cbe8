"""A small real token server: the Docker registry's token authentication (distribution, auth/token.md).

Clients show user and password at ``/token`` and get a JWT, signed with a key whose certificate the
registry trusts.
"""

from __future__ import annotations

import base64
import datetime
import json
import secrets
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID

from tests.support.patience import PATIENCE_S
from tests.support.registry import PASSWORD, USER, TokenService

_ISSUER, _SERVICE = "cafs test tokens", "cafs test registry"


class TokenServer:
    """Serves tokens until ``stop``."""

    def __init__(self, folder: Path, *, anonymous_pull: bool = False) -> None:
        """Make a key and a certificate in ``folder`` and listen on a port of loopback."""
        folder.mkdir(parents=True, exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        certificate = _self_signed(self._key)
        path = folder / "tokens.pem"
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        self._chain = [base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()]
        self.anonymous_pull = anonymous_pull
        self.password = PASSWORD
        """What USER needs."""
        self.issued: list[list[str]] = []
        """The scopes of each token that was handed out, in order."""
        self.refused = 0
        """Requests with wrong credentials."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        realm = f"http://127.0.0.1:{self._server.server_port}/token"
        self.service = TokenService(realm, _SERVICE, _ISSUER, path)

    def stop(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(PATIENCE_S)

    def answer(self, authorization: str, query: dict[str, list[str]]) -> dict[str, Any] | None:
        """The token for one request, or None for wrong credentials."""
        known = authorization == "Basic " + base64.b64encode(f"{USER}:{self.password}".encode()).decode()
        scopes = [scope for words in query.get("scope", []) for scope in words.split()]
        if not known and (authorization or not self.anonymous_pull):
            self.refused += 1
            return None
        self.issued.append(scopes)
        access = [_access(scope, all_actions=known) for scope in scopes]
        token = self._sign(access)
        return {"token": token, "access_token": token, "expires_in": 300}

    def _sign(self, access: list[dict[str, Any]]) -> str:
        now = int(time.time())
        header = {"typ": "JWT", "alg": "ES256", "x5c": self._chain}
        claims = {
            "iss": _ISSUER,
            "sub": USER,
            "aud": _SERVICE,
            "iat": now,
            "nbf": now - 10,
            "exp": now + 300,
            "jti": secrets.token_hex(8),
            "access": access,
        }
        signed = f"{_encode(json.dumps(header).encode())}.{_encode(json.dumps(claims).encode())}"
        r, s = decode_dss_signature(self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{_encode(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def _access(scope: str, *, all_actions: bool) -> dict[str, Any]:
    kind, name, actions = (
        scope.split(":", 1)[0],
        scope.split(":", 1)[1].rsplit(":", 1)[0],
        scope.rsplit(":", 1)[1],
    )
    granted = [action for action in actions.split(",") if all_actions or action == "pull"]
    return {"type": kind, "name": name, "actions": granted}


def _encode(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()


def _self_signed(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _ISSUER)])
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .sign(key, hashes.SHA256())
    )


def _handler(tokens: TokenServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(self.headers.get("Authorization", ""), parse_qs(urlsplit(self.path).query))

        def do_POST(self) -> None:
            """docker/oauth: what containerd does with a password."""
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            pair = f"{form['username'][0]}:{form['password'][0]}".encode()
            self._answer("Basic " + base64.b64encode(pair).decode(), form)

        def _answer(self, authorization: str, query: dict[str, list[str]]) -> None:
            answer = tokens.answer(authorization, query)
            body = json.dumps(
                answer if answer is not None else {"details": "wrong user or password"}
            ).encode()
            self.send_response(200 if answer is not None else 401)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler
