"""The filters of List: parsed, and matched with a snapshot. Pure.

The language is that of containerd's pkg/filters: selectors joined by commas must all match, of several
filters one must. ``FIELD``, ``FIELD==VALUE``, ``FIELD!=VALUE``, ``FIELD~=REGULAR EXPRESSION``; a field is
``name``, ``parent``, ``kind`` or ``labels.KEY``; parts of a field and values may be quoted as in Go.
Regular expressions are RE2's, as Go's are, and so take time linear in what they look at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from cafs.errors import UsageError
from cafs.snapshotter.filter_scanner import END, Scanner, Token
from cafs.snapshotter.snapshot import Info

Filter = Callable[[Info], bool]
_SIMPLE_ESCAPES = {"a": 7, "b": 8, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11, "\\": 92}
_HEX_DIGITS = {"x": 2, "u": 4, "U": 8}


def parse_filters(texts: Sequence[str]) -> Filter:
    """The filter that lets through what one of ``texts`` matches; everything if there is none.

    Raises:
        UsageError: one of them is no filter; the message shows where.
    """
    parsed = [_Parser(text).selectors() if text else () for text in texts]
    return lambda info: not parsed or any(all(one.matches(info) for one in selectors) for selectors in parsed)


@dataclass(frozen=True, slots=True)
class _Selector:
    path: tuple[str, ...]
    operator: str
    """Empty: only look whether the field is there."""
    value: str

    def matches(self, info: Info) -> bool:
        found = _field(info, self.path)
        match self.operator:
            case "==":
                return found == self.value
            case "!=":
                return (found or "") != self.value
            case "~=":
                return _search(self.value, found or "")
        return found is not None


def _field(info: Info, path: tuple[str, ...]) -> str | None:
    match path[0]:
        case "name":
            return info.name
        case "parent":
            return info.parent
        case "kind":
            return info.kind.name.lower()
        case "labels":
            return info.labels.get(".".join(path[1:]))
    return None


def _search(expression: str, text: str) -> bool:
    """One that is no regular expression matches nothing, as in containerd."""
    compiled = _compiled(expression)
    return compiled is not None and compiled(text)


@lru_cache(maxsize=64)
def _compiled(expression: str) -> Callable[[str], bool] | None:
    import re2  # noqa: PLC0415  only whoever uses an expression pays for loading the library

    options = re2.Options()
    options.log_errors = False
    try:
        pattern = re2.compile(expression, options)
    except (re2.error, UnicodeEncodeError):
        return None
    return lambda text: pattern.search(text) is not None


class _Parser:
    """Recursive descent, one method a rule of the grammar."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._scanner = Scanner(text)

    def selectors(self) -> tuple[_Selector, ...]:
        found = [self._selector()]
        while (character := self._scanner.peek()) != END:
            if character != ",":
                raise self._error(self._scanner.position, f"unexpected input: {character}")
            self._scanner.scan()
            found.append(self._selector())
        return tuple(found)

    def _selector(self) -> _Selector:
        path = self._path()
        if self._scanner.peek() in {",", END}:
            return _Selector(path, "", "")
        operator = self._operator()
        return _Selector(path, operator, self._value(any_quotes=operator == "~="))

    def _path(self) -> tuple[str, ...]:
        fields = [self._one_field()]
        while self._scanner.peek() == ".":
            self._scanner.scan()
            fields.append(self._one_field())
        return tuple(fields)

    def _one_field(self) -> str:
        found = self._scanner.scan()
        if found.token is Token.FIELD:
            return found.text
        if found.token is Token.QUOTED:
            return self._unquoted(found.text, found.position, any_quotes=False)
        raise self._unexpected(found.token, found.position, "expected field or quoted")

    def _operator(self) -> str:
        found = self._scanner.scan()
        if found.token is Token.OPERATOR:
            if found.text in {"==", "!=", "~="}:
                return found.text
            raise self._error(found.position, f'unsupported operator "{found.text}"')
        raise self._unexpected(found.token, found.position, 'expected an operator ("=="|"!="|"~=")')

    def _value(self, *, any_quotes: bool) -> str:
        found = self._scanner.scan()
        if found.token in {Token.VALUE, Token.FIELD}:
            return found.text
        if found.token is Token.QUOTED:
            return self._unquoted(found.text, found.position, any_quotes=any_quotes)
        raise self._unexpected(found.token, found.position, "expected value or quoted")

    def _unquoted(self, text: str, position: int, *, any_quotes: bool) -> str:
        if not any_quotes and text[0] != '"':
            raise self._error(position, "invalid quote encountered")
        try:
            return _unquote(text[1:-1])
        except ValueError:
            raise self._error(position, "unquoting failed: quote syntax error") from None

    def _unexpected(self, token: Token, position: int, expected: str) -> UsageError:
        return self._error(position, self._scanner.problem if token is Token.ILLEGAL else expected)

    def _error(self, position: int, message: str) -> UsageError:
        text = self._text
        if position < len(text):
            text = f"{text[:position]} >|{text[position]}|< {text[position + 1 :]}"
        return UsageError(f"filters: parse error: [{text}]: {message}")


def _unquote(text: str) -> str:
    """What a quoted string of Go's means. ``\\x`` and octal escapes are bytes, the others characters.

    The scanner has let through well-formed escapes only; what is left to refuse are values out of range.
    """
    out = bytearray()
    position = 0
    while position < len(text):
        character = text[position]
        position += 1
        if character != "\\":
            out += character.encode()
            continue
        kind = text[position]
        position += 1
        if kind in _HEX_DIGITS:
            digits = text[position : position + _HEX_DIGITS[kind]]
            position += len(digits)
            value = int(digits, 16)
            out += bytes([value]) if kind == "x" else _encoded(value)
        elif kind in "01234567":
            value = int(text[position - 1 : position + 2], 8)
            position += 2
            out += value.to_bytes(1) if value < 256 else _refuse()
        elif kind in _SIMPLE_ESCAPES:
            out.append(_SIMPLE_ESCAPES[kind])
        else:
            out += kind.encode()  # the quote itself
    return out.decode(errors="surrogateescape")


def _encoded(value: int) -> bytes:
    if value > 0x10FFFF:
        _refuse()
    return chr(0xFFFD if 0xD800 <= value < 0xE000 else value).encode()


def _refuse() -> bytes:
    raise ValueError
