"""Reading JSON documents of others: bounded, and every wrong shape is an error that names its field.

Used for manifests, configs, layouts and credentials. A ``Fields`` is one JSON object together with the
words that say where it stands, so that no reader has to repeat them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from cafs.core.digest import Digest, parse_digest
from cafs.core.json_bound import has_more_values
from cafs.errors import IntegrityError, UsageError

MAX_TEXT = 4096
"""Characters that one string of a manifest may have."""
MAX_ITEMS = 10_000
"""Entries that one array or object may have."""
MAX_VALUES = 250_000
"""Of a whole document: twice what a list of ``MAX_ITEMS`` manifests has."""
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
"""Half of a character that JSON escapes as two. On its own it could be neither a name nor printed."""
_MAX_SIZE = 1 << 53
"""Larger sizes are not written exactly by every JSON writer; no blob comes near."""


def parse_json_object(content: bytes, what: str, limit: int) -> Fields:
    """Parse ``content`` as one JSON object.

    Raises:
        IntegrityError: too large, too many values, not JSON in UTF-8, not an object, a text that is none.
    """
    if len(content) > limit:
        raise IntegrityError(f"{what} has {len(content)} bytes, more than the {limit} allowed")
    if has_more_values(content, MAX_VALUES):
        raise IntegrityError(f"{what} has more than the {MAX_VALUES} values allowed")
    try:
        text = content.decode()
        value = json.loads(text)
        if _HALF.search(text):
            json.dumps(value, ensure_ascii=False).encode()  # a half without its other half: ValueError
    except (ValueError, RecursionError) as e:
        raise IntegrityError(f"{what} is not valid JSON: {str(e)[:100]}") from e
    if not isinstance(value, dict):
        raise IntegrityError(f"{what} is not a JSON object")
    return Fields(value, what)


class Fields:
    """One JSON object that somebody else wrote."""

    def __init__(self, value: Mapping[str, Any], where: str) -> None:
        self._value = value
        self._where = where

    def wrong(self, key: str, problem: str) -> IntegrityError:
        """The error for a field that is not as it must be."""
        return IntegrityError(f"{self._where}: {key} {problem}")

    def __contains__(self, key: str) -> bool:
        return self._value.get(key) is not None

    def text(self, key: str) -> str:
        """A string that must be there."""
        value = self._value.get(key)
        if not isinstance(value, str):
            raise self.wrong(key, "is missing" if value is None else "is not a string")
        if len(value) > MAX_TEXT:
            raise self.wrong(key, f"is longer than {MAX_TEXT} characters")
        return value

    def optional_text(self, key: str) -> str | None:
        """A string that may be missing, null or empty (then None)."""
        return (self.text(key) or None) if key in self else None

    def long_text(self, key: str, limit: int) -> str:
        """A string of at most ``limit`` characters; missing, null and other types are empty."""
        value = self._value.get(key)
        if not isinstance(value, str):
            return ""
        if len(value) > limit:
            raise self.wrong(key, f"is longer than {limit} characters")
        return value

    def number(self, key: str) -> float | None:
        """A finite number that may be missing or of another type (then None)."""
        value = self._value.get(key)
        if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < _MAX_SIZE:
            return None
        return float(value)

    def size(self, key: str) -> int:
        """A number of bytes."""
        value = self._value.get(key)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.wrong(key, "is not a whole number")
        if not 0 <= value <= _MAX_SIZE:
            raise self.wrong(key, f"is out of range: {str(value)[:30]}")
        return value

    def digest(self, key: str) -> Digest:
        """A digest that must be there."""
        text = self.text(key)
        try:
            return parse_digest(text)
        except UsageError as e:
            raise self.wrong(key, f"is {e}") from e

    def object(self, key: str) -> Fields:
        """An object that must be there."""
        return self._as_object(self._value.get(key), key)

    def optional_object(self, key: str) -> Fields | None:
        """An object that may be missing or null."""
        return self.object(key) if key in self else None

    def objects(self, key: str) -> list[Fields]:
        """An array of objects; missing or null is empty."""
        return [self._as_object(value, f"{key}[{i}]") for i, value in enumerate(self._array(key))]

    def texts(self, key: str) -> list[str]:
        """An array of strings; missing or null is empty."""
        items = self._array(key)
        for i, value in enumerate(items):
            if not isinstance(value, str) or len(value) > MAX_TEXT:
                raise self.wrong(f"{key}[{i}]", "is not a (short) string")
        return items

    def digests(self, key: str) -> list[Digest]:
        """An array of digests; missing or null is empty."""
        named = {f"{key}[{i}]": text for i, text in enumerate(self.texts(key))}
        fields = Fields(named, self._where)
        return [fields.digest(name) for name in named]

    def text_map(self, key: str) -> dict[str, str]:
        """An object of strings, as annotations are; missing or null is empty."""
        value = self._value.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict) or len(value) > MAX_ITEMS:
            raise self.wrong(key, "is not an object of strings")
        if not all(isinstance(v, str) for v in value.values()):
            raise self.wrong(key, "holds a value that is not a string")
        return value

    def members(self, key: str) -> Iterator[tuple[str, Fields]]:
        """The members of an object of objects; missing or null is empty."""
        value = self._value.get(key)
        if value is None:
            return
        if not isinstance(value, dict) or len(value) > MAX_ITEMS:
            raise self.wrong(key, "is not an object")
        for name, member in value.items():
            yield name, self._as_object(member, f"{key}[{name[:80]!r}]")

    def _array(self, key: str) -> list[Any]:
        value = self._value.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.wrong(key, "is not an array")
        if len(value) > MAX_ITEMS:
            raise self.wrong(key, f"has {len(value)} entries, more than the {MAX_ITEMS} allowed")
        return value

    def _as_object(self, value: Any, key: str) -> Fields:
        if not isinstance(value, dict):
            raise self.wrong(key, "is missing" if value is None else "is not an object")
        return Fields(value, f"{self._where}: {key}")
