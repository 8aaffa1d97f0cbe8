"""Asks an OpenID provider: its description, its keys, and a token for a code. Blocking, thread-safe.

Its description and keys are kept for an hour; a key that is not among them has them asked for again, at
most every half minute. What comes is bounded, and hostile until checked.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2 as httpx
import jwt

from cafs.errors import UnavailableError
from cafs.manager.oidc.flow import Flow
from cafs.manager.oidc.provider import Provider, is_safe
from cafs.manager.refusals import UnauthenticatedError

log = logging.getLogger(__name__)

PATIENCE_S = 10.0
KEPT_S, AGAIN_S = 3600.0, 30.0
_MOST_BYTES = 1 << 20
_LEEWAY_S = 60
_AT_ONCE = 8
"""Sign-ins that wait for the provider: each holds one of the threads that all of REST has."""
_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Signatures with a key pair only: an HMAC would be made with what we share with the provider."""


@dataclass(frozen=True, slots=True)
class _Known:
    authorize: str
    token: str
    keys: Mapping[str, jwt.PyJWK]
    """By number; one without has the number ''."""
    at: float


class ProviderClient:
    """See the module."""

    def __init__(self, provider: Provider, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock``: seconds, by which what is known of the provider grows old."""
        self.provider = provider
        self._clock = clock
        self._lock = threading.Lock()
        self._places = threading.BoundedSemaphore(_AT_ONCE)
        self._known: _Known | None = None
        self._http = httpx.Client(timeout=PATIENCE_S, follow_redirects=False)

    def close(self) -> None:
        """Let go of its connections."""
        self._http.close()

    def address(self, flow: Flow, redirect: str) -> str:
        """Where somebody signs in.

        Raises:
            UnavailableError: the provider does not answer as one.
        """
        with self._place():
            return flow.address(self._description().authorize, self.provider, redirect)

    def claims(self, flow: Flow, code: str, redirect: str) -> Mapping[str, Any]:
        """Whom a code stands for: the claims of the ID token, checked.

        Raises:
            UnauthenticatedError: the provider refuses the code, or its token is not good for us.
            UnavailableError: the provider does not answer as one.
        """
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect,
            "code_verifier": flow.verifier,
        }
        secret = self.provider.client_secret
        basic = httpx.BasicAuth(self.provider.client_id, secret) if secret else None
        if basic is None:
            form["client_id"] = self.provider.client_id
        with self._place():
            answer = self._ask("POST", self._description().token, data=form, auth=basic)
            token = answer.get("id_token")
            if not isinstance(token, str):
                raise UnauthenticatedError("the provider does not take the code: begin anew")
            return self._checked(token, flow.nonce)

    @contextmanager
    def _place(self) -> Iterator[None]:
        if not self._places.acquire(blocking=False):
            raise UnavailableError("too many sign-ins wait for the OpenID provider: try again")
        try:
            yield
        finally:
            self._places.release()

    def _checked(self, token: str, nonce: str) -> Mapping[str, Any]:
        try:
            claims = self._verified(token)
        except (jwt.ExpiredSignatureError, jwt.ImmatureSignatureError) as e:
            log.warning("OIDC: a token of %s is not good: %s: do the clocks agree?", self.provider.issuer, e)
            raise UnauthenticatedError(
                f"the provider's clock and this manager's differ by more than {_LEEWAY_S} s"
            ) from None
        except jwt.PyJWTError as e:
            log.warning("OIDC: a token of %s is not good: %s", self.provider.issuer, e)
            raise UnauthenticatedError("the provider's token is not good for this manager") from None
        if claims.get("nonce") != nonce:
            raise UnauthenticatedError("the provider's token belongs to another sign-in")
        if claims.get("azp", self.provider.client_id) != self.provider.client_id:
            raise UnauthenticatedError("the provider's token is for somebody else")
        return claims

    def _verified(self, token: str) -> dict[str, Any]:
        """The claims; with keys that are asked for again if the ones that we know do not fit."""
        number = str(jwt.get_unverified_header(token).get("kid", ""))
        for oldest in (KEPT_S, AGAIN_S):
            if (key := _key_of(self._description(oldest).keys, number)) is None:
                continue
            try:
                return self._decoded(token, key)
            except jwt.InvalidSignatureError:  # another key by the same number, or by none
                if oldest == AGAIN_S:
                    raise
        raise UnauthenticatedError("the provider's token is signed with a key that it does not publish")

    def _decoded(self, token: str, key: jwt.PyJWK) -> dict[str, Any]:
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=list(_ALGORITHMS),
            audience=self.provider.client_id,
            issuer=self.provider.issuer,
            leeway=_LEEWAY_S,
            options={"require": ["exp", "iat", "iss", "aud", "sub"]},
        )
        return claims

    def _description(self, oldest_s: float = KEPT_S) -> _Known:
        if not self._lock.acquire(timeout=PATIENCE_S):
            raise UnavailableError(f"OIDC: {self.provider.issuer} does not answer: try again")
        try:
            if self._known is None or self._clock() - self._known.at > oldest_s:
                self._known = self._learn()
            return self._known
        finally:
            self._lock.release()

    def _learn(self) -> _Known:
        issuer = self.provider.issuer
        document = self._ask("GET", f"{issuer.rstrip('/')}/.well-known/openid-configuration")
        if document.get("issuer") != issuer:
            raise UnavailableError(f"OIDC: what answers at {issuer} says that it is somebody else")
        places = [document.get(name) for name in ("authorization_endpoint", "token_endpoint", "jwks_uri")]
        authorize, token, keys = (str(place) for place in places)
        if not all(is_safe(place) for place in (authorize, token, keys)):
            raise UnavailableError(f"OIDC: {issuer} has endpoints without TLS, or lacks some")
        return _Known(authorize, token, self._keys(keys), self._clock())

    def _keys(self, address: str) -> dict[str, jwt.PyJWK]:
        listed = self._ask("GET", address).get("keys")
        found = {}
        for each in listed if isinstance(listed, list) else []:
            try:
                key = jwt.PyJWK(each)
            except (jwt.PyJWTError, ValueError, TypeError, AttributeError):
                continue  # of a kind that we do not know: others may be meant for others
            if each.get("use", "sig") == "sig":
                found[str(key.key_id or "")] = key
        return found

    def _ask(self, method: str, address: str, **arguments: Any) -> dict[str, Any]:
        what = f"OIDC: {self.provider.issuer}"
        ends = time.monotonic() + PATIENCE_S
        try:
            with self._http.stream(method, address, **arguments) as answer:
                body = b""
                for part in answer.iter_bytes():
                    body += part
                    if len(body) > _MOST_BYTES:
                        raise UnavailableError(f"{what} answers with more than {_MOST_BYTES} bytes")
                    if time.monotonic() > ends:  # byte by byte each of them would be in time
                        raise UnavailableError(f"{what} does not answer within {PATIENCE_S:.0f} s")
            if answer.status_code in {400, 401, 403} and method == "POST":
                log.warning("%s does not take a code: %s", what, _reason(body))
                return {}
            if answer.status_code != 200:
                raise UnavailableError(f"{what} answers with {answer.status_code}")
            document = json.loads(body)
        except (httpx.HTTPError, ValueError) as e:
            log.warning("%s: %s", what, e)
            raise UnavailableError(f"{what} does not answer as a provider") from None
        return document if isinstance(document, dict) else {}


def _key_of(keys: Mapping[str, jwt.PyJWK], number: str) -> jwt.PyJWK | None:
    if not number and len(keys) == 1:
        return next(iter(keys.values()))
    return keys.get(number)


def _reason(body: bytes) -> str:
    """RFC 6749, 5.2: of the provider's words only the ones that cannot hold anything secret."""
    try:
        return str(json.loads(body)["error"])[:100]
    except (ValueError, KeyError, TypeError):
        return "without a reason"
