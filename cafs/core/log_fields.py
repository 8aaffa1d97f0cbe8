"""How a log line names what it is about: ``image=… layer=…``, the same in every process. Pure."""

from __future__ import annotations

import json


def about(**fields: object) -> str:
    """``key=value`` for each field that is not empty, in the order given; odd values are quoted."""
    return " ".join(f"{key}={_value(str(value))}" for key, value in fields.items() if value)


def _value(text: str) -> str:
    plain = text.isprintable() and not any(letter in text for letter in ' "=')
    return text if plain else json.dumps(text)
