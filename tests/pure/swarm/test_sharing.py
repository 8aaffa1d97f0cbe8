"""What hosts may share, as a shared cache decides."""

import pytest

from cafs.core.swarm.sharing import why_not_shared

ETAG = ("etag", '"1"')


@pytest.mark.parametrize(
    ("told", "sent", "why"),
    [
        ([], [], ""),
        ([("cache-control", "public, max-age=9, no-cache")], [], ""),
        ([("cache-control", "max-age=9, Private")], [], "Cache-Control: private"),
        ([("cache-control", 'private="set-cookie"')], [], "Cache-Control: private"),
        ([("cache-control", "no-cache"), ("cache-control", "no-store")], [], "Cache-Control: no-store"),
        ([("vary", "Authorization, Cookie")], [], ""),  # all who get here have none
        ([("vary", "Accept-Encoding, Origin")], [("accept-encoding", "gzip")], ""),
        ([("vary", "*")], [], "Vary: *"),
        ([("vary", "Accept-Language")], [], ""),
        ([("vary", "Accept-Language")], [("Accept-Language", "de")], "Vary: accept-language"),
        ([("vary", "accept")], [("accept", "*/*")], ""),
        ([("vary", "accept")], [("accept", "text/html")], "Vary: accept"),
    ],
)
def test_what_anybody_may_ask_for(told: list[tuple[str, str]], sent: list[tuple[str, str]], why: str) -> None:
    assert why_not_shared(told, sent, private=False) == why


@pytest.mark.parametrize(
    ("told", "shared"),
    [
        ([], False),  # of two clients, each may have been given something of his own
        ([ETAG], True),
        ([("last-modified", "yesterday"), ("cache-control", "private")], True),
        ([("cache-control", "public, max-age=9")], True),
        ([ETAG, ("cache-control", "no-store")], False),
        ([ETAG, ("vary", "Authorization")], True),
    ],
)
def test_what_needs_credentials(told: list[tuple[str, str]], shared: bool) -> None:
    assert (why_not_shared(told, [("authorization", "x")], private=True) == "") is shared
