"""Hearing what the members of a swarm get, as they get it.

A request to each of the best members stays open for as long as the download lasts. One that breaks is begun
again after a moment; pieces are asked of a member that cannot be followed all the same.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from cafs.core.swarm.ids import HostId, TaskId
from cafs.core.swarm.messages import FailReason
from cafs.core.swarm.news import SIGN_OF_LIFE, News
from cafs.core.swarm.swarm_view import Known, SwarmView
from cafs.p2p.parent_client import ParentClient, ParentError

MOST_FOLLOWED = 24
AGAIN_S = 0.5


class Followers:
    """Of one download."""

    def __init__(
        self,
        parents: ParentClient,
        task: TaskId,
        view: SwarmView,
        nursery: trio.Nursery,
        heard: Callable[[], None],
    ) -> None:
        self._parents = parents
        self._task = task
        self._view = view
        self._nursery = nursery
        self._heard = heard
        self._scopes: dict[HostId, trio.CancelScope] = {}

    def update(self) -> None:
        """Follow who is a member now."""
        best = sorted(
            (known for known in self._view.members.values() if not known.member.complete),
            key=_worth,
            reverse=True,
        )[:MOST_FOLLOWED]
        wanted = {known.member.host for known in best}
        for host in [host for host in self._scopes if host not in wanted]:
            self._scopes.pop(host).cancel()
        for host in wanted - self._scopes.keys():
            scope = self._scopes[host] = trio.CancelScope()
            self._nursery.start_soon(self._follow, host, scope)

    async def _follow(self, host: HostId, scope: trio.CancelScope) -> None:
        with scope:
            while (known := self._view.members.get(host)) is not None:
                if known.is_usable(trio.current_time()):
                    await self._hear_out(host, known.member.address)
                await trio.sleep(AGAIN_S)

    async def _hear_out(self, host: HostId, address: str) -> None:
        def heard(news: News) -> None:
            numbers = [number for number, _ in news.pieces]
            self._view.heard(host, numbers, trio.current_time(), news.coming)
            if news is not SIGN_OF_LIFE:
                self._heard()

        try:
            await self._parents.follow(address, self._task, heard)
        except ParentError as e:
            if e.reason is FailReason.CORRUPT:
                self._view.note_failure(host, None, e.reason, trio.current_time())


def _worth(known: Known) -> tuple[bool, bool, float]:
    member = known.member
    return member.at_source, member.owner, member.score
