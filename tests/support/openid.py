"""OpenID providers: a whole one, and one that says whatever a test wants it to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from oidc_provider_mock import run_server_in_thread

from tests.support.manager import Manager

CLIENT = "cafs"


@dataclass(frozen=True)
class Openid:
    """A whole provider."""

    issuer: str

    def person(self, subject: str, **claims: Any) -> None:
        """Let it know somebody."""
        answer = httpx2.put(f"{self.issuer}/users/{subject}", json=claims)
        assert answer.status_code == 204, answer.text

    def sign_in(self, address: str, subject: str) -> dict[str, str]:
        """What a browser does there; the query with which it comes back."""
        answer = httpx2.post(address, data={"sub": subject})
        assert answer.status_code == 302, answer.text
        return {
            name: values[0] for name, values in parse_qs(urlsplit(answer.headers["location"]).query).items()
        }


@contextmanager
def running_openid() -> Iterator[Openid]:
    """While the context lasts."""
    with run_server_in_thread(require_nonce=True) as server:
        yield Openid(f"http://localhost:{server.server_port}")


def begin(manager: Manager) -> dict[str, str]:
    """Ask the manager for the way to its provider."""
    answer = manager.ask("POST", "/api/v1/oidc/flows")
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def finish(manager: Manager, flow: str, back: Mapping[str, str]) -> httpx2.Response:
    """Come back to the manager."""
    body = {"flow": flow, "state": back["state"], "code": back["code"]}
    return manager.ask("POST", "/api/v1/oidc/sessions", json=body)


def sign_in(manager: Manager, provider: Openid, subject: str) -> httpx2.Response:
    """All of it."""
    way = begin(manager)
    return finish(manager, way["flow"], provider.sign_in(way["address"], subject))


@dataclass
class Liar:
    """A provider whose documents and tokens a test may change."""

    issuer: str
    key: rsa.RSAPrivateKey
    description: dict[str, Any]
    claims: dict[str, Any] = field(default_factory=dict)
    sign: Callable[[dict[str, Any]], str] | None = None
    """Instead of the ordinary signature."""
    padding: int = 0
    """Bytes of nothing in each answer."""
    asked: list[str] = field(default_factory=list)

    def token(self, nonce: str) -> str:
        """An ID token, with what a test has changed."""
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "sub": "42",
            "aud": CLIENT,
            "exp": now + 300,
            "iat": now,
            "nonce": nonce,
            "preferred_username": "alice",
            **self.claims,
        }
        claims = {name: value for name, value in claims.items() if value is not None}
        return self.sign(claims) if self.sign else jwt.encode(claims, self.key, "RS256", headers={"kid": "1"})

    def answer(self, path: str, form: Mapping[str, list[str]]) -> dict[str, Any]:
        """What it says."""
        self.asked.append(path)
        if path == "/keys":
            public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self.key.public_key()))
            odd = [{"kty": "strange"}, 7, {"kty": "RSA", "n": "!", "e": "AQAB"}, {**public, "kid": ["1"]}]
            return {"keys": [{**public, "kid": "1"}, *odd]}
        if path == "/token":
            return {"id_token": self.token(form["code"][0])}  # a test gives the nonce as code
        return self.description


@contextmanager
def running_liar() -> Iterator[Liar]:
    """While the context lasts."""
    made: list[Liar] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply({})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            self._reply(parse_qs(body.decode()))

        def _reply(self, form: Mapping[str, list[str]]) -> None:
            body = json.dumps(made[0].answer(self.path, form)).encode() + b" " * made[0].padding
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        issuer = f"http://127.0.0.1:{server.server_port}"
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        places = {"authorization_endpoint": "/authorize", "token_endpoint": "/token", "jwks_uri": "/keys"}
        description = {"issuer": issuer, **{name: issuer + path for name, path in places.items()}}
        made.append(Liar(issuer, key, description))
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield made[0]
        finally:
            server.shutdown()
            thread.join()
