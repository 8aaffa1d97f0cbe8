"""Names of tasks: the same for every host, no collisions, nothing secret told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafs.core.swarm.ids import canonical_url, is_private, parse_host_id, parse_task_id, task_id, tellable_url
from cafs.errors import UsageError

URL = "https://example.org/data/file?b=2&a=1"
DIGEST = "sha256:" + "0" * 64


def test_a_name_is_pinned() -> None:
    # Hosts of different versions must agree: this may change only together with the field "cafs-task-1".
    assert task_id(URL, tag="t") == "9fbdf31ab851af6135b6b43982342b673cdbc5ccec79ca2bb77408325d86c10a"
    assert parse_task_id(task_id(URL)) == task_id(URL)


def test_what_makes_no_difference() -> None:
    same = task_id(URL)
    assert task_id("HTTPS://user:word@Example.org:443/data/file?b=2&a=1#part") == same
    assert task_id(URL + "&sid=7", filtered_query=("sid",)) == same
    assert task_id(URL, digest=DIGEST) == task_id("http://elsewhere/", digest=DIGEST)


def test_what_does() -> None:
    names = {
        task_id(URL),
        task_id(URL + "&sid=7"),
        task_id("https://example.org/data/file?a=1&b=2"),
        task_id(URL, tag="x"),
        task_id(URL, application="x"),
        task_id(URL, digest=DIGEST),
        task_id(URL, private=True),
        task_id("https://example.org:8443/data/file?b=2&a=1"),
    }
    assert len(names) == 8


@given(
    st.lists(st.text(max_size=5), min_size=2, max_size=2),
    st.lists(st.text(max_size=5), min_size=2, max_size=2),
)
def test_no_two_wishes_meet(one: list[str], other: list[str]) -> None:
    ids = [task_id(URL, tag=tag, application=application) for tag, application in (one, other)]
    assert (ids[0] == ids[1]) == (one == other)


@pytest.mark.parametrize(
    ("url", "headers", "private"),
    [
        (URL, (), False),
        (URL, (("Accept", "text/html"),), False),
        (URL, (("authorization", "Bearer x"),), True),
        (URL, (("Cookie", "a=b"),), True),
        ("https://u:p@example.org/", (), True),
        ("https://b.s3.amazonaws.com/k?X-Amz-Signature=1", (), True),
        ("https://b.blob.core.windows.net/k?sv=1&sig=abc", (), True),
        ("https://example.org/?access%5Ftoken=1", (), True),
    ],
)
def test_credentials_are_seen(url: str, headers: tuple[tuple[str, str], ...], private: bool) -> None:
    assert is_private(url, headers) is private


def test_others_see_no_credentials() -> None:
    assert tellable_url("https://u:p@h/p?token=1&b=2#x", private=True) == "https://h/p"
    assert tellable_url("https://h/p?b=2&sid=1", ("sid",), private=False) == "https://h/p?b=2"


@given(st.text(max_size=60))
def test_any_text_is_a_url_or_a_mistake(text: str) -> None:
    try:
        url = canonical_url(text)
    except UsageError:
        return
    assert canonical_url(url) == url


@pytest.mark.parametrize("text", ["", "0" * 63, "0" * 65, "G" * 64, "../" + "0" * 61, "0" * 64 + "\n"])
def test_no_id(text: str) -> None:
    with pytest.raises(UsageError):
        parse_task_id(text)
    with pytest.raises(UsageError):
        parse_host_id(text[:31])
