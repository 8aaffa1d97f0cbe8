"""Valid messages, damaged: what a parser has to survive that stands between us and the network.

Random bytes are refused at the first of them. Messages that are nearly right get further, so fuzzing begins
with valid ones. ``FUZZ_EXAMPLES`` says how many each test tries; for thousands give
pytest ``--timeout=0``, too.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

_NASTY = (
    b"\r\n", b"\n", b"\r", b"\0", b" ", b":", b",", b"-", b"0", b"-1", b"9" * 30, b"\xff", b"\x80", b"{",
    b"[" * 2000, b'"', b"null", b"NaN", b"true", b"1e999", b"\\ud800", b"\\u0000", b"..", b"/", b"//",
    b"%", b"%00", b"?", b"#", b"CONNECT", b"HEAD", b"HTTP/1.0", b"x" * 70_000,
    b"Content-Length: 5\r\n", b"Content-Length: 99999999999999999999\r\n", b"Host: other\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n", b"Expect: 100-continue\r\n",
    b"Upgrade: x\r\nConnection: upgrade\r\n", b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 304 X\r\n\r\n", b"0\r\n\r\n", b"fffffffffffff\r\n", b"bytes 0-0/1", b"bytes 5-2/*",
)  # fmt: skip


def fuzzed(examples: int) -> settings:
    """So many, unless ``FUZZ_EXAMPLES`` says otherwise."""
    return settings(
        max_examples=int(os.environ.get("FUZZ_EXAMPLES", examples)),
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


@st.composite
def mutated(draw: st.DrawFn, valid: Sequence[bytes]) -> bytes:
    """One of them, damaged in up to four places; now and then not at all."""
    data = bytearray(draw(st.sampled_from(valid)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.integers(0, 40)))
        match draw(st.sampled_from(["flip", "cut", "insert", "replace", "double", "end", "splice"])):
            case "flip" if at < len(data):
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del data[at:end]
            case "insert":
                data[at:at] = draw(st.sampled_from(_NASTY) | st.binary(max_size=8))
            case "replace":
                data[at:end] = draw(st.sampled_from(_NASTY) | st.binary(max_size=8))
            case "double":
                data[at:at] = data[at:end]
            case "end":
                del data[at:]
            case "splice":
                other = draw(st.sampled_from(valid))
                data[at:] = other[draw(st.integers(0, len(other))) :]
    return bytes(data)
