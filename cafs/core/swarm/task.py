"""What a host knows of a task: the wish it stands for, and what the source said of the content. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cafs.core.digest import Digest
from cafs.core.swarm.ids import TaskId
from cafs.core.swarm.layout import Layout
from cafs.core.swarm.priorities import USUAL

REPLAYED = frozenset(
    [
        "content-type",
        "content-encoding",
        "content-language",
        "content-disposition",
        "etag",
        "last-modified",
        "cache-control",
        "expires",
        "date",
        "vary",
        "accept-ranges",
        "docker-content-digest",
        "docker-distribution-api-version",
        "x-repo-commit",
        "x-linked-etag",
        "x-linked-size",
    ]
)
"""Headers of the origin's answer that others will need; only these are kept and passed on."""
MAX_HEADERS = 16
MAX_HEADER_BYTES = 1024

Headers = tuple[tuple[str, str], ...]
MOST_NAME_BYTES = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """What is to be had; holds nothing secret."""

    task_id: TaskId
    url: str
    """As others may see it: see ``ids.tellable_url``."""
    digest: Digest | None = None
    tag: str = ""
    application: str = ""
    priority: int = USUAL
    private: bool = False
    """The origin wants credentials: handed out only to who has such that it accepted."""
    filtered_query: tuple[str, ...] = ()

    @property
    def seedable(self) -> bool:
        """Whoever has this can fetch it: the url is whole, and needs no credentials."""
        return bool(self.url) and not self.private


def is_name(text: str) -> bool:
    """Whether a tag, or an application, may be called so: printable, and of at most 255 bytes.

    A scheduler hears nothing more of a host that says anything else.
    """
    return text.isprintable() and len(text.encode()) <= MOST_NAME_BYTES


@dataclass(frozen=True, slots=True)
class TaskMeta:
    """What is known of the content."""

    layout: Layout
    headers: Headers = ()
    """Of the origin's answer, names in lower case: those in ``REPLAYED``."""
    asked_at_s: float = 0.0
    """When the origin itself last said this, in seconds since the epoch; 0: others said so."""

    def with_length(self, content_bytes: int) -> TaskMeta:
        """The same, once the end is known."""
        return replace(self, layout=Layout(content_bytes, self.layout.piece_bytes))

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)

    def agrees_with(self, other: TaskMeta) -> bool:
        """Can both be about the same content?"""
        mine, its = self.layout, other.layout
        same_length = mine.content_bytes == its.content_bytes or None in (
            mine.content_bytes,
            its.content_bytes,
        )
        return mine.piece_bytes == its.piece_bytes and same_length


def replayed(headers: Headers) -> Headers:
    """What of an origin's headers is kept."""
    lower = ((name.lower(), value) for name, value in headers)
    kept = [(name, value) for name, value in lower if name in REPLAYED and len(value) <= MAX_HEADER_BYTES]
    return tuple(kept[:MAX_HEADERS])
