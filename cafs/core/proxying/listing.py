"""Reading a directory index as nginx, Apache and Python serve it: the links of an HTML page. Pure."""

from __future__ import annotations

from html.parser import HTMLParser
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

_MAX_LINKS = 100_000


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep what an anchor leads to."""
        target = dict(attrs).get("href")
        if tag == "a" and target and len(self.found) < _MAX_LINKS:
            self.found.append(target)


def parse_index(page: str, base: str) -> dict[str, str]:
    """What lies directly below ``base`` (which ends with a slash): name to address.

    Names of directories end with a slash. Links to elsewhere, to sorted views and to what is no plain name
    are left out: a name becomes a path on this machine.
    """
    links = _Links()
    links.feed(page)
    found = {}
    for link in links.found:
        try:
            address = urldefrag(urljoin(base, link)).url
            query = urlsplit(address).query
        except ValueError:
            continue
        rest = address.removeprefix(base)
        name = unquote(rest)
        if not address.startswith(base) or query or not _is_name(name.removesuffix("/")):
            continue
        found[name] = address
    return found


def _is_name(name: str) -> bool:
    return (
        bool(name) and name not in {".", ".."} and "/" not in name and "\0" not in name and name.isprintable()
    )
