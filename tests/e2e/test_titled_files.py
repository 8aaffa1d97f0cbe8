"""OCI artifacts that are no images, as ``oras push`` makes them: converted, mounted; titles that attack."""

from __future__ import annotations

import hashlib
import json

import pytest
import trio

from cafs.oci.annotations import TITLE
from cafs.oci.descriptor import EMPTY_CONFIG, EMPTY_JSON, Descriptor
from cafs.oci.media_types import OCI_MANIFEST
from tests.support.oci import manifest_bytes, push_bytes, push_image
from tests.support.tars import make_tar, member
from tests.support.user import DRIVERS, User, layout_repository

FILES = {
    "model.safetensors": hashlib.shake_128(b"weights").digest(3_000_000),
    "tokenizer/vocabulary.json": json.dumps({"words": ["ä", "b"]}).encode() * 300,
    "empty": b"",
    ".wh.model.safetensors": b"no whiteout: it means nothing but itself",
}


def push(user: User, files: dict[str, bytes], tag: str = "v1") -> None:
    """An artifact whose blobs are these files."""

    async def run() -> None:
        layout = layout_repository(user)
        await layout.push_blob(EMPTY_JSON, EMPTY_CONFIG)
        blobs = []
        for title, content in files.items():
            blob = await push_bytes(layout, content)
            blobs.append(Descriptor(blob.digest, blob.size, blob.media_type, annotations={TITLE: title}))
        manifest = manifest_bytes(EMPTY_CONFIG, blobs, artifactType="application/vnd.test.model")
        await layout.push_manifest(manifest, OCI_MANIFEST, tag)

    trio.run(run)


@pytest.mark.parametrize("driver", DRIVERS)
def test_its_files_are_shown_under_their_titles(user: User, driver: str) -> None:
    push(user, FILES)
    user.cafs("convert", user.image)
    user.cafs("check", user.image)
    with user.mounted(user.image, f"--driver={driver}") as tree:
        found = {str(path.relative_to(tree)): path.read_bytes() for path in tree.rglob("*") if path.is_file()}
    assert found == FILES


def test_the_same_bytes_under_other_titles_are_other_files(user: User) -> None:
    """What was converted before is the file's bytes under its name then, or a layer whose tar they are."""
    tar = make_tar(member("in-the-tar", content=b"content"))
    trio.run(push_image, layout_repository(user), [tar], "image")
    user.cafs("convert", f"oci:{user.layout}:image")
    for tag, titles in (("v1", ["a", "b"]), ("v2", ["c"]), ("v1", ["a", "b"])):
        push(user, dict.fromkeys(titles, tar), tag)
        image = f"oci:{user.layout}:{tag}"
        user.cafs("convert", "--set=convert_workers=1", image)  # one after the other
        assert user.cafs("ls", "-R", image).out.split() == titles
        assert user.cafs("cat", image, titles[-1]).out == tar.decode()


@pytest.mark.parametrize(
    ("title", "says"),
    [
        ("../evil", r"\.\./evil.*'\.\.'"),
        ("a/../../evil", r"'\.\.'"),
        ("/etc/evil", "absolute"),
        ("a\0b", "NUL"),
        (".", "root"),
        ("x" * 256, "256 bytes"),
    ],
    ids=repr,
)
def test_a_title_that_no_file_can_have_is_refused(user: User, title: str, says: str) -> None:
    push(user, {"good": b"good", title: b"evil"})
    user.cafs("convert", user.image, code=3, says=says)
    user.assert_no_work_left()
    user.cafs("mount", user.image, user.target, code=1, says="cafs convert")
    user.assert_nothing_mounted()
