"""Starts are offered, told and learned of, over real gRPC, on both databases; REST shows and forgets them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import pytest
from sqlalchemy import update

from cafs.core.digest import Digest
from cafs.core.learning import KEPT_STARTS, MAX_BYTES, MAX_CHUNKS, parse_bounded
from cafs.core.profile import Profile, encode_profile, parse_profile
from cafs.manager.profiles import catalogue
from cafs.manager.tables import LearnedProfile, Start
from cafs.proto import manager_pb2
from tests.component.manager.test_statistics import database_of
from tests.support.manager import Manager
from tests.support.manager_client import ServiceStream, channel_to, until

IMAGE = b"\x07" * 32
DIGEST = f"sha256:{IMAGE.hex()}"
LAYER = Digest("sha256:" + "1" * 64)


def read(*numbers: int) -> bytes:
    """A start that read these chunks, as it is told."""
    return encode_profile(Profile((LAYER,), tuple((0, number.to_bytes(8, "big")) for number in numbers)))


def numbers(document: bytes) -> list[int]:
    """The chunks of a learned profile in their order; none while nothing is learned."""
    if not document:
        return []
    return [int.from_bytes(prefix, "big") for _, prefix in parse_profile(document).chunks]


def tell(stream: ServiceStream, document: bytes, image: bytes = IMAGE, **more: Any) -> None:
    """Offer a start, and send it when it is wanted."""
    stream.say(start_offer=manager_pb2.StartOffer(image=image))
    assert stream.hear("start_wanted").image == image
    report = {"name": "registry/app:v1", "frame_bytes": 1000, "profile": document, **more}
    stream.say(start_report=manager_pb2.StartReport(image=image, **report))


def ask(stream: ServiceStream, held: bytes = b"", image: bytes = IMAGE) -> Any:
    stream.say(profile_wish=manager_pb2.ProfileWish(image=image, held=held))
    told = stream.hear("learned_profile")
    assert (told.image, told.held) == (image, held)
    return told


def starts(manager: Manager, admin: str) -> int:
    return sum(profile["starts"] for profile in manager.call("GET", "/profiles", admin)["items"])


def test_what_starts_read_is_learned_shown_and_forgotten(manager: Manager) -> None:
    admin = manager.administrator()
    with channel_to(manager.ports.services) as channel:
        first, second, third = (ServiceStream(channel, host * 32) for host in "abc")
        for stream in (first, second, third):
            stream.hello()
        assert not ask(first).profile
        for count, (stream, read_by) in enumerate(((first, (5, 1, 9)), (second, (5, 1)), (third, (5, 3)))):
            tell(stream, read(*read_by), frame_bytes=count)
            until(lambda count=count: starts(manager, admin) == count + 1)
        told = ask(second)
        assert numbers(told.profile) == [5, 1]
        assert parse_profile(told.profile).starts == 3
        unchanged = ask(second, sha256(told.profile).digest())
        assert (unchanged.unchanged, unchanged.profile) == (True, b"")
        tell(third, read(5, 9))  # a host's newest counts
        until(lambda: numbers(ask(second).profile) == [5, 1, 9])
        assert starts(manager, admin) == 3

        (listed,) = manager.call("GET", "/profiles", admin)["items"]
        shown = manager.call("GET", f"/profiles/{DIGEST}", admin)
        assert (listed["image"], listed["name"], listed["chunks"]) == (DIGEST, "registry/app:v1", 3)
        assert {name: shown[name] for name in listed} == listed
        assert shown["layers"] == [{"diff_id": LAYER, "chunks": 3}]
        assert shown["order"] == [[0, f"{number:016x}"] for number in (5, 1, 9)]

        manager.call("DELETE", f"/profiles/{DIGEST}", admin, 204)
        assert not ask(second, sha256(told.profile).digest()).profile
        assert manager.ask("GET", f"/profiles/{DIGEST}", admin).status_code == 404
        assert manager.ask("DELETE", f"/profiles/{DIGEST}", admin).status_code == 404
        change = manager.call("GET", "/audit", admin)["items"][0]
        assert (change["action"], change["thing"]) == ("profile.reset", f"profile {DIGEST}")
        assert change["before"] == {"name": "registry/app:v1", "starts": 3, "chunks": 3}
        tell(first, read(2))
        until(lambda: numbers(ask(second).profile) == [2])


def test_the_newest_starts_and_images_are_kept(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    admin = manager.administrator()
    monkeypatch.setattr(catalogue, "MOST_IMAGES", 3)
    monkeypatch.setattr(catalogue, "KEPT_STARTS", 2)
    with channel_to(manager.ports.services) as channel:
        streams = [ServiceStream(channel, host * 32) for host in "abcd"]
        for number, stream in enumerate(streams):
            stream.hello()
            tell(stream, read(number))
            until(lambda number=number: starts(manager, admin) == min(number + 1, 2))
        until(lambda: sorted(numbers(ask(streams[0]).profile)) == [2, 3])
        images = [bytes([number]) * 32 for number in range(10, 14)]
        for image in images:
            tell(streams[0], read(1), image)
            until(lambda image=image: bool(ask(streams[0], image=image).profile))
        kept = [profile["image"] for profile in manager.call("GET", "/profiles", admin)["items"]]
        assert kept == [f"sha256:{image.hex()}" for image in images[1:]]
        page = manager.call("GET", "/profiles?limit=2", admin)
        rest = manager.call("GET", f"/profiles?after={page['next']}", admin)
        assert [profile["image"] for profile in (*page["items"], *rest["items"])] == kept
        assert rest["next"] is None


def test_starts_of_a_clock_that_ran_ahead_keep_no_new_ones_out(database_address: str, tmp_path: Path) -> None:
    image, now = IMAGE.hex(), datetime.now(UTC)
    with database_of(database_address, tmp_path) as database, database.writing() as session:

        def add(host_id: str, number: int) -> LearnedProfile:
            start = parse_bounded(read(number))
            return catalogue.add_start(session, image, host_id, name="app", frame_bytes=1, start=start)

        for number in range(KEPT_STARTS):
            add(f"{number:032x}", number)
        for thing, field in ((Start, "at"), (LearnedProfile, "learned_at")):
            session.execute(update(thing).values({field: now + timedelta(days=365)}))
        session.expire_all()
        profile = add("f" * 32, 99)
        assert session.get(Start, (image, "f" * 32)) is not None
        assert (profile.starts, profile.learned_at - now < timedelta(days=1)) == (KEPT_STARTS, True)


def test_what_was_not_wanted_is_passed_over(manager: Manager) -> None:
    admin = manager.administrator()
    with channel_to(manager.ports.services) as channel:
        stream = ServiceStream(channel)
        stream.hello()
        stream.say(start_report=manager_pb2.StartReport(image=IMAGE, profile=read(1)))
        assert not ask(stream).profile
        tell(stream, read(1))
        stream.say(start_report=manager_pb2.StartReport(image=IMAGE, profile=read(2)))
        until(lambda: numbers(ask(stream).profile) == [1])
        assert starts(manager, admin) == 1


def known(manager: Manager, admin: str) -> dict[str, Any]:
    """Of what is listed, by image."""
    return {profile["image"]: profile for profile in manager.call("GET", "/profiles", admin)["items"]}


def test_what_images_share_is_counted(manager: Manager) -> None:
    """Layers by diffID; chunks that starts of both read, also in different layers."""
    admin = manager.administrator()
    base, own, other = (Digest("sha256:" + digit * 64) for digit in "123")
    starts_of = {
        1: ((base, own), [(0, 1), (0, 2), (1, 3), (1, 4), (0, 4)]),  # 4 lies in both of its layers
        2: ((base, other), [(0, 1), (0, 2), (1, 4), (1, 9)]),
        3: ((base,), [(0, 7)]),
        4: ((other,), [(0, 3)]),
        5: ((Digest("sha512:" + "5" * 128),), [(0, 8)]),
    }
    names = {number: f"sha256:{number:064x}" for number in starts_of}
    with channel_to(manager.ports.services) as channel:
        stream = ServiceStream(channel)
        stream.hello()
        for number, (layers, chunks) in starts_of.items():
            start = Profile(layers, tuple((layer, chunk.to_bytes(8, "big")) for layer, chunk in chunks))
            tell(stream, encode_profile(start), number.to_bytes(32, "big"), frame_bytes=4000)
            until(lambda number=number: names[number] in known(manager, admin))
    listed = known(manager, admin)
    counted = {
        number: tuple(
            listed[name][field] for field in ("layer_count", "shared_layers", "shared_layer_chunks")
        )
        for number, name in names.items()
    }
    assert counted == {
        1: (2, 1, 3), 2: (2, 2, 4), 3: (1, 1, 1), 4: (1, 1, 1), 5: (1, 0, 0),
    }  # fmt: skip
    shared = manager.call("GET", f"/profiles/{names[1]}/shared", admin)
    items = shared.pop("items")
    assert shared == {
        "image": names[1], "name": "registry/app:v1", "read": 4, "shared": 4, "share": 1.0,
        "frame_bytes": 4000, "compared": 4, "sharing": 3,
    }  # fmt: skip
    assert [
        (item["image"], item["layers"], item["chunks"], item["share"], item["frame_bytes"], item["read"])
        for item in items
    ] == [
        (names[2], 1, 3, 0.75, 3000, 4),
        (names[4], 0, 1, 0.25, 1000, 1),
        (names[3], 1, 0, 0.0, 0, 1),
    ]
    most = manager.call("GET", f"/profiles/{names[1]}/shared?limit=1", admin)
    assert (most["items"], most["sharing"]) == (items[:1], 3)
    nothing = manager.call("GET", f"/profiles/{names[5]}/shared", admin)
    assert (nothing["shared"], nothing["compared"], nothing["items"]) == (0, 4, [])

    manager.call("DELETE", f"/profiles/{names[2]}", admin, 204)
    left = manager.call("GET", f"/profiles/{names[1]}/shared", admin)
    assert (left["shared"], left["compared"], left["sharing"]) == (1, 3, 2)
    assert known(manager, admin)[names[4]]["shared_layers"] == 0
    assert manager.ask("GET", f"/profiles/{names[2]}/shared", admin).status_code == 404


@pytest.mark.parametrize(
    "message",
    [
        {"profile_wish": {"image": b"short"}},
        {"profile_wish": {}},
        {"profile_wish": {"image": IMAGE, "held": b"x"}},
        {"start_offer": {"image": IMAGE + b"x"}},
        {"start_report": {"image": IMAGE, "profile": b"{}"}},
        {"start_report": {"image": IMAGE}},
        {"start_report": {"image": b"", "profile": read(1)}},
        {"start_report": {"image": IMAGE, "profile": read(1), "name": "n" * 513}},
        {"start_report": {"image": IMAGE, "profile": read(1), "name": "\x1b[2J"}},
        {"start_report": {"image": IMAGE, "profile": read(*range(MAX_CHUNKS + 1))}},
        {"start_report": {"image": IMAGE, "profile": read(1) + b" " * MAX_BYTES}},
    ],
)
def test_nonsense_ends_the_stream(nonsense_at: Manager, message: dict[str, Any]) -> None:
    with channel_to(nonsense_at.ports.services) as channel:
        stream = ServiceStream(channel)
        stream.hello()
        stream.say(**message)
        assert stream.ended()[0] is grpc.StatusCode.INVALID_ARGUMENT


def test_as_many_as_are_kept_are_asked_to_tell(manager: Manager) -> None:
    with channel_to(manager.ports.services) as channel:
        streams = [ServiceStream(channel, f"{number:032x}") for number in range(KEPT_STARTS + 2)]
        for stream in streams:
            stream.hello()
            stream.say(start_offer=manager_pb2.StartOffer(image=IMAGE))
            ask(stream)  # answered together with the offer, or after it
        more = streams[-1]
        more.say(start_offer=manager_pb2.StartOffer(image=b"\x08" * 32))
        assert more.hear("start_wanted").image == b"\x08" * 32  # and none for the other image before it
