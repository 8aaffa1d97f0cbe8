"""One sign-in on its way to the provider and back. Kept by the browser, sealed, so that any replica goes on.

What is sealed: the state (against answers to somebody else's request), the nonce (against tokens of another
sign-in) and PKCE's verifier (RFC 7636: against whoever reads the code on its way).
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from dataclasses import asdict, dataclass
from urllib.parse import urlencode, urlsplit

from cryptography.fernet import Fernet, InvalidToken

from cafs.manager.oidc.provider import Provider
from cafs.manager.refusals import UnauthenticatedError

LASTS_S = 600
"""From the way there to the way back."""
MOST_BYTES = 2048
"""Of one that is sealed."""


@dataclass(frozen=True, slots=True)
class Flow:
    """See the module."""

    state: str
    nonce: str
    verifier: str

    @classmethod
    def begin(cls) -> Flow:
        """A new one."""
        return cls(*(secrets.token_urlsafe(32) for _ in range(3)))

    def sealed(self, key: bytes) -> str:
        """For whoever signs in, to keep until he comes back."""
        return Fernet(key).encrypt(json.dumps(asdict(self)).encode()).decode()

    def address(self, endpoint: str, provider: Provider, redirect: str) -> str:
        """Where to sign in."""
        challenge = base64.urlsafe_b64encode(hashlib.sha256(self.verifier.encode()).digest())
        query = {
            "response_type": "code",
            "client_id": provider.client_id,
            "redirect_uri": redirect,
            "scope": "openid profile email",
            "state": self.state,
            "nonce": self.nonce,
            "code_challenge": challenge.rstrip(b"=").decode(),
            "code_challenge_method": "S256",
        }
        return f"{endpoint}{'&' if urlsplit(endpoint).query else '?'}{urlencode(query)}"


def open_flow(sealed: str, state: str, key: bytes) -> Flow:
    """The one that an answer belongs to.

    Raises:
        UnauthenticatedError: none of ours, too old, or the answer is to another one.
    """
    try:
        flow = Flow(**json.loads(Fernet(key).decrypt(sealed, ttl=LASTS_S)))
    except InvalidToken:
        raise UnauthenticatedError("this sign-in was not begun here, or too long ago: begin anew") from None
    if not secrets.compare_digest(flow.state.encode(), state.encode(errors="replace")):
        raise UnauthenticatedError("the answer belongs to another sign-in: begin anew")
    return flow
