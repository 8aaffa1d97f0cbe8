"""Between this node's mount server and the manager: what was learned of starts, and starts to learn from.

The mount server asks over the node socket (docs/peer.md); the manager is asked over the peer's stream to it.
Nothing is kept here but for a moment: what waits is bounded in number and time. Used from one trio thread.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass
from hashlib import sha256
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import trio

from cafs.core.digest import Digest, parse_digest
from cafs.core.learning import (
    FRAME_BYTES_HEADER,
    IMAGE_HEADER,
    MAX_BYTES,
    MAX_NAME_BYTES,
    PROFILES_PATH,
    parse_bounded,
)
from cafs.core.profile import Profile
from cafs.errors import CafsError, DeadlineError, IntegrityError, NotFoundError, UnavailableError, UsageError
from cafs.http11.messages import Answer, Reply, Request

if TYPE_CHECKING:
    from cafs.daemon.manager_link import ManagerLink

log = logging.getLogger(__name__)

PATIENCE_S = 3.0
"""For the manager."""
_MOST_ASKED, _MOST_OFFERED = 64, 16


@dataclass(slots=True)
class ProfileFigures:
    """Running counts."""

    learned: int = 0
    """Mounts that were told what was learned of their image, or that what they had still holds."""
    nothing: int = 0
    """That were told that nothing is, or that it is switched off."""
    offered: int = 0
    """Starts that were offered to the manager."""
    told: int = 0
    """Of these, that it wanted."""


class _Asked:
    """A wish that the manager has not answered yet; any number may wait."""

    def __init__(self) -> None:
        self.asked_at = trio.current_time()
        self.waiting = 0
        self.answered = trio.Event()
        self.unchanged = False
        self.profile = b""


class ProfileRelay:
    """See the module."""

    def __init__(self, *, has_manager: bool, is_on: bool) -> None:
        """
        Args:
            has_manager: One is configured.
            is_on: This node learns, if its cluster does.
        """
        self._has_manager = has_manager
        self._is_on = is_on
        self.learns = True
        """The cluster does."""
        self.link: ManagerLink | None = None
        self.figures = ProfileFigures()
        self._asked: dict[tuple[bytes, bytes], _Asked] = {}
        self._offered: OrderedDict[bytes, dict[str, Any]] = OrderedDict()

    async def answer_wish(self, request: Request, reply: Reply) -> None:
        """A ``Handler``: what was learned of an image."""
        if not self._is_learning:
            self.figures.nothing += 1
            raise NotFoundError("nothing is learned on this node")
        image, link = _image(request), self._linked()
        try:
            held = bytes.fromhex((request.header("if-none-match") or "").strip('"'))
            if len(held) not in {0, 32}:
                raise ValueError
        except ValueError:
            raise UsageError("If-None-Match must be the SHA-256 of the profile that is held") from None
        answer = await self._ask(link, image, held)
        etag = (("ETag", f'"{sha256(answer.profile).hexdigest()}"'),)
        found = answer.unchanged or bool(answer.profile)
        self.figures.learned += found
        self.figures.nothing += not found
        if answer.unchanged:
            await reply.send(Answer(HTTPStatus.NOT_MODIFIED, b""))
        elif not found:
            raise NotFoundError("nothing is learned of this image")
        else:
            await reply.send(Answer(HTTPStatus.OK, answer.profile, headers=etag))

    async def take_start(self, request: Request, reply: Reply) -> None:
        """A ``Handler``: a start that was recorded. It is offered, and told if the manager wants it."""
        if not self._is_learning:
            raise NotFoundError("nothing is learned on this node")
        image, link = _image(request), self._linked()
        name = request.header(IMAGE_HEADER) or ""
        size = request.header(FRAME_BYTES_HEADER) or "0"
        is_name = len(name) <= MAX_NAME_BYTES and name.isascii() and name.isprintable()
        if not (is_name and size.isascii() and size.isdecimal()):
            raise UsageError(f"{IMAGE_HEADER} or {FRAME_BYTES_HEADER} is none")
        try:
            parse_bounded(request.body)
        except IntegrityError as e:
            raise UsageError(f"the body is no start: {e}") from None
        told = {"image": image, "name": name, "frame_bytes": min(int(size[:18]), 1 << 50)}
        self._offered[image] = {**told, "profile": request.body}
        while len(self._offered) > _MOST_OFFERED:
            self._offered.popitem(last=False)
        link.say(_from_service(start_offer={"image": image}))
        self.figures.offered += 1
        await reply.send(Answer(HTTPStatus.ACCEPTED, b""))

    async def find(self, image: Digest) -> Profile | None:
        """What was learned of an image, for this peer itself; nobody who could tell is nothing learned."""
        if not self._is_learning:
            return None
        try:
            answer = await self._ask(self._linked(), _image_bytes(image), b"")
            return parse_bounded(answer.profile) if answer.profile else None
        except CafsError as e:
            log.info("what was learned of %s is not known: %s", image, e)
            return None

    def hear_learned(self, told: Any) -> None:
        """The manager answers a wish: a ``LearnedProfile``."""
        asked = self._asked.get((told.image, told.held))
        if asked is not None:
            is_profile = len(told.profile) <= MAX_BYTES
            if not is_profile:
                log.info("the manager says %d bytes of a profile, which cannot be", len(told.profile))
            asked.unchanged = told.unchanged
            asked.profile = told.profile if is_profile else b""
            asked.answered.set()

    def hear_wanted(self, told: Any) -> None:
        """The manager wants a start: a ``StartWanted``."""
        report = self._offered.pop(told.image, None)
        if report is not None and self.link is not None and self._is_learning:
            self.link.say(_from_service(start_report=report))
            self.figures.told += 1

    async def _ask(self, link: ManagerLink, image: bytes, held: bytes) -> _Asked:
        key = image, held
        asked = self._asked.get(key)
        if asked is None:
            if len(self._asked) >= _MOST_ASKED:
                raise UnavailableError("too many ask for profiles at once")
            asked = self._asked[key] = _Asked()
            link.say(_from_service(profile_wish={"image": image, "held": held}))
        elif trio.current_time() - asked.asked_at > PATIENCE_S:  # the first word may be lost
            asked.asked_at = trio.current_time()
            link.say(_from_service(profile_wish={"image": image, "held": held}))
        asked.waiting += 1
        try:
            with trio.fail_after(PATIENCE_S):
                await asked.answered.wait()
        except trio.TooSlowError:
            raise DeadlineError("the manager does not say what it has learned") from None
        finally:
            asked.waiting -= 1  # who leaves early takes the answer from nobody else
            is_over = asked.answered.is_set() or not asked.waiting
            if is_over and self._asked.get(key) is asked:
                del self._asked[key]
        return asked

    @property
    def _is_learning(self) -> bool:
        return self._has_manager and self._is_on and self.learns

    def _linked(self) -> ManagerLink:
        if self.link is None or not self.link.is_up:
            raise UnavailableError("the manager is away")
        return self.link


def _image(request: Request) -> bytes:
    return _image_bytes(parse_digest(request.path.removeprefix(PROFILES_PATH)))


def _image_bytes(image: Digest) -> bytes:
    kind, _, digits = image.partition(":")
    if kind != "sha256":
        raise UsageError("only images that are named by SHA-256 are learned of")
    return bytes.fromhex(digits)


def _from_service(**message: Any) -> Any:
    """A message to the manager. Its library is there: there is a link."""
    from cafs.proto import manager_pb2  # noqa: PLC0415 - only who has a manager needs it

    return manager_pb2.FromService(**message)
