"""Messages built at random from their descriptors: any field absent, right, or as wrong as its type allows.

Values that are right for a field of that name are among those that are drawn, or nothing would get past the
first check; how wild a message is differs. Of a seed, so that thousands cost a second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, nan
from random import Random
from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

_M = TypeVar("_M", bound=Message)
Usual = Mapping[str, Sequence[Any]]
"""Values that are right, by ``Message.field``, or else the name of the field."""

_BITS = {
    FieldDescriptor.CPPTYPE_INT32: (-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, (1 << 32) - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, (1 << 64) - 1),
    FieldDescriptor.CPPTYPE_ENUM: (-(1 << 31), (1 << 31) - 1),
}
_NUMBERS = (0, 1, 2, 3, 7, 17, 1000, 1 << 31, 1 << 44, 1 << 53, 1 << 62)
_TEXTS = (
    "", " ", "\0", "\r\nX: y", "x" * 300, "x" * 70_000, "\u202e", "\ufffd", "\U0001f4a9", "../../etc",
    "sha256:", "NaN", "-1", "%00", "a|b|c|d|e|f|g", "http://169.254.169.254/", "file:///etc/passwd",
    "http://[::1", "http://u:p@h/", "HTTP://h:99999/", "ftp://h/", "//h/x", "[2001:db8::1%a zone]:80",
    "[2001:db8::1%\0]:80", f"[2001:db8::1%{'z' * 5000}]:80", "[::ffff:169.254.169.254]:80", "0.0.0.0:1",
    "h:0", "10.0.0.1:70000", "linux/", "y" * 32, "dir:/etc", "docker://h/r@sha256:x", "authorization",
)  # fmt: skip
_BYTES = (
    b"",
    b"\xff\xfe",
    b"{}",
    b"[]",
    b"null",
    b"NaN",
    b'{"a": 1e999}',
    b"[" * 3000,
    b"x" * 70_000,
    bytes(32),
)
_MOST_LEVELS = 6
_WILDNESS = (0.0, 0.03, 0.1, 0.4)


def messages(kind: type[_M], usual: Usual, most: int = 3000) -> st.SearchStrategy[_M]:
    """Any of this kind; now and then with so many entries of a repeated field."""
    return st.integers(0, (1 << 63) - 1).map(lambda seed: random_message(Random(seed), kind, usual, most))


def random_message(rng: Random, kind: type[_M], usual: Usual, most: int = 3000) -> _M:
    """One of this kind; see ``messages``."""
    made = kind()
    _Drawing(rng, usual, most, rng.choice(_WILDNESS)).fill(made, _MOST_LEVELS)
    return made


@dataclass(frozen=True, slots=True)
class _Drawing:
    rng: Random
    usual: Usual
    most: int
    wild: float

    # Fields are ``FieldDescriptor``; its stubs name two classes of that name.

    def fill(self, message: Message, levels: int) -> None:
        chosen = {oneof.name: self.rng.choice(oneof.fields) for oneof in message.DESCRIPTOR.oneofs}
        for field in message.DESCRIPTOR.fields:
            of = field.containing_oneof
            if (of is not None and chosen[of.name] is not field) or self.rng.random() < self.wild / 2:
                continue
            if field.is_repeated:
                getattr(message, field.name).extend(self._entries(field, levels))
            elif field.message_type is not None:
                getattr(message, field.name).CopyFrom(self._value(field, levels))
            else:
                setattr(message, field.name, self._value(field, levels))

    def _entries(self, field: Any, levels: int) -> list[Any]:
        entries = [self._value(field, levels) for _ in range(self.rng.randint(0, 3))]
        if entries and self.rng.random() < self.wild / 4:
            entries *= self.most // len(entries)
        return entries

    def _value(self, field: Any, levels: int) -> Any:
        if field.message_type is not None:
            made = GetMessageClass(field.message_type)()
            if levels:
                self.fill(made, levels - 1)
            return made
        right = self.usual.get(f"{field.containing_type.name}.{field.name}", self.usual.get(field.name))
        if right and self.rng.random() >= self.wild:
            return self.rng.choice(right)
        return self._any(field)

    def _any(self, field: Any) -> Any:
        rng, kind = self.rng, field.cpp_type
        if kind == FieldDescriptor.CPPTYPE_BOOL:
            return rng.random() < 0.5
        if kind in {FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT}:
            return rng.choice((nan, inf, -inf, -0.0, -1.0, 1e300, 5e-324))
        if field.type == FieldDescriptor.TYPE_BYTES:
            return rng.choice((*_BYTES, rng.randbytes(rng.randint(1, 40))))
        if kind == FieldDescriptor.CPPTYPE_STRING:
            return rng.choice(
                (*_TEXTS, "".join(chr(rng.randint(0, 0xD7FF)) for _ in range(rng.randint(1, 9))))
            )
        least, most = _BITS[kind]
        found = rng.choice((*_NUMBERS, least, most, rng.randint(least, most)))
        return min(max(found, least), most)
