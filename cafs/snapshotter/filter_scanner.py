"""Cuts a List filter into tokens. Pure; used by ``filters`` only.

The rules are those of containerd's pkg/filters/scanner.go, with its peculiarities: what may stand in a value
depends on whether an operator came before, and quotes may be ``"``, ``/`` and ``|``.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from enum import Enum

_QUOTES = '"/|'
_SEPARATORS = ",."
_OPERATORS = "=!~"
_ESCAPES = "abfnrtv\\"
_HEX_DIGITS = {"x": 2, "u": 4, "U": 8}
_WHITE_SPACE = frozenset(
    "\t\n\v\f\r \u0085\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
"""Unicode's White_Space."""
END = ""
ILLEGAL = "\0"
"""Where a character cannot be: NUL, and the one that stands for broken UTF-8."""


class Token(Enum):
    """What was found."""

    END = "end"
    QUOTED = "quoted"
    VALUE = "value"
    FIELD = "field"
    SEPARATOR = "separator"
    OPERATOR = "operator"
    ILLEGAL = "illegal"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Found:
    """A token and where it begins."""

    token: Token
    text: str
    position: int


class Scanner:
    """One filter, read from left to right."""

    def __init__(self, text: str) -> None:
        """Begin."""
        self.position = 0
        self.problem = "unexpected input"
        self._text = text
        self._in_value = False

    def peek(self) -> str:
        """The next character: ``END``, ``ILLEGAL`` or itself."""
        if self.position >= len(self._text):
            return END
        character = self._text[self.position]
        return ILLEGAL if character in "\0\ufffd" else character

    def _next(self) -> str:
        character = self.peek()
        if character != END:
            self.position += 1
        return character

    def scan(self) -> Found:
        """Take the next token."""
        while self.peek() in _WHITE_SPACE:
            self.position += 1
        start = self.position
        character = self._next()
        return Found(self._token(character), self._text[start : self.position], start)

    def _token(self, character: str) -> Token:  # noqa: PLR0911  one for each kind
        if character == END:
            return Token.END
        if character == ILLEGAL:
            return Token.ILLEGAL
        if character in _QUOTES:
            return Token.QUOTED if self._take_quoted(character) else Token.ILLEGAL
        if character in _SEPARATORS:
            self._in_value = False
            return Token.SEPARATOR
        if character in _OPERATORS:
            while self.peek() and self.peek() in _OPERATORS:
                self.position += 1
            self._in_value = True
            return Token.OPERATOR
        if self._in_value:
            while _is_value(self.peek()):
                self.position += 1
            self._in_value = False
            return Token.VALUE
        if _is_field(character):
            while _is_field(self.peek()):
                self.position += 1
            return Token.FIELD
        return Token.OTHER

    def _take_quoted(self, quote: str) -> bool:
        legal = True
        character = self._next()
        while character != quote:
            if character in {END, ILLEGAL, "\n"}:
                self.problem = "quoted literal not terminated"
                return False
            if character == "\\":
                character, well = self._take_escape(quote)
                legal = legal and well
            else:
                character = self._next()
        return legal

    def _take_escape(self, quote: str) -> tuple[str, bool]:
        character = self._next()
        if character != END and (character in _ESCAPES or character == quote):
            return self._next(), True
        if character != END and character in "01234567":
            return self._take_digits(character, "01234567", 3)
        if character in _HEX_DIGITS:
            return self._take_digits(self._next(), "0123456789abcdefABCDEF", _HEX_DIGITS[character])
        self.problem = "illegal escape sequence"
        return character, False

    def _take_digits(self, character: str, digits: str, count: int) -> tuple[str, bool]:
        while count > 0 and character != END and character in digits:
            character = self._next()
            count -= 1
        if count > 0:
            self.problem = "illegal numeric escape sequence"
        return character, count == 0


def _is_field(character: str) -> bool:
    return character.isascii() and (character.isalnum() or character == "_")


def _is_value(character: str) -> bool:
    """A printable character other than a comma and white space."""
    if character in {END, ILLEGAL, ","} or character in _WHITE_SPACE:
        return False
    return unicodedata.category(character)[0] in "LMNPS"
