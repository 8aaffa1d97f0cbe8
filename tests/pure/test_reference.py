"""References: what skopeo and docker accept and refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafs.errors import UsageError
from cafs.oci.reference import PathReference, RegistryReference, Transport, parse_reference

D = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("text", "host", "repository", "tag", "digest"),
    [
        ("debian", "docker.io", "library/debian", "latest", None),
        ("debian:12", "docker.io", "library/debian", "12", None),
        ("team/app", "docker.io", "team/app", "latest", None),
        ("docker://docker.io/debian", "docker.io", "library/debian", "latest", None),
        ("index.docker.io/library/debian", "docker.io", "library/debian", "latest", None),
        ("localhost/app", "localhost", "app", "latest", None),
        ("localhost:5000/app:v1", "localhost:5000", "app", "v1", None),
        ("docker://127.0.0.1:5000/a/b/c:V1.0_x", "127.0.0.1:5000", "a/b/c", "V1.0_x", None),
        ("[::1]:5000/app", "[::1]:5000", "app", "latest", None),
        (f"ghcr.io/a/b@{D}", "ghcr.io", "a/b", None, D),
        (f"ghcr.io/a/b:1@{D}", "ghcr.io", "a/b", "1", D),
        ("a__b/c--d.e", "docker.io", "a__b/c--d.e", "latest", None),
    ],
)
def test_registry(text: str, host: str, repository: str, tag: str | None, digest: str | None) -> None:
    ref = parse_reference(text)
    assert isinstance(ref, RegistryReference)
    assert (ref.host, ref.repository, ref.tag, ref.digest) == (host, repository, tag, digest)
    assert ref.selector == (digest or tag)
    assert parse_reference(str(ref)) == ref


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("oci:/a/b", PathReference(Transport.OCI, Path("/a/b"))),
        ("oci:rel:v1", PathReference(Transport.OCI, Path("rel"), "v1")),
        ("oci:rel:docker.io/library/x:1", PathReference(Transport.OCI, Path("rel"), "docker.io/library/x:1")),
        (f"oci:rel@{D}", PathReference(Transport.OCI, Path("rel"), None, D)),
        ("oci-archive:a.tar:v1", PathReference(Transport.OCI_ARCHIVE, Path("a.tar"), "v1")),
        ("docker-archive:a.tar:x:1", PathReference(Transport.DOCKER_ARCHIVE, Path("a.tar"), "x:1")),
        ("dir:/a:b", PathReference(Transport.DIR, Path("/a:b"))),
        ("tar:x.tar.gz", PathReference(Transport.TAR, Path("x.tar.gz"))),
    ],
)
def test_paths(text: str, expected: PathReference) -> None:
    assert parse_reference(text) == expected
    assert parse_reference(str(expected)) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("Debian", "lower case"),
        ("ghcr.io/Team/app", "lower case"),
        ("ghcr.io/../app", "'..'"),
        ("ghcr.io/a/../../b", "'..'"),
        ("ghcr.io//a", "''"),
        ("ghcr.io/a/", "''"),
        ("a b", "'a b'"),
        ("a\nb", "control"),
        ("a\x00b", "control"),
        ("app:", "tag"),
        ("app:../x", "not a registry host"),
        ("app:" + "x" * 129, "tag"),
        ("app@sha256:12", "digest"),
        ("host:99999/app", "host"),
        ("host:/app", "host"),
        ("-bad.io/app", "host"),
        ("docker://", "''"),
        ("https://ghcr.io/app", "transport"),
        ("oci:", "no path"),
        ("oci:d:../../x", "tag"),
        ("dir:", "no path"),
        ("/tmp/x", "write dir:/tmp/x"),
        ("./x", "write dir:./x"),
        ("ghcr.io/" + "a" * 300, "longer"),
    ],
)
def test_refused(text: str, says: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_reference(text)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@given(st.text(max_size=300))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        ref = parse_reference(text)
    except UsageError:
        return
    assert parse_reference(str(ref)) == ref


@given(st.from_regex(r"[a-z.:/@A-Z0-9_-]{0,60}", fullmatch=True))
def test_likely_text_is_read_or_refused(text: str) -> None:
    try:
        ref = parse_reference(text)
    except UsageError:
        return
    assert parse_reference(str(ref)) == ref
    if isinstance(ref, RegistryReference):
        assert ".." not in ref.repository.split("/")
