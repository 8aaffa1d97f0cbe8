"""Everything one scheduler knows, and the small steps that all its modules take."""

from __future__ import annotations

from collections import Counter, deque
from random import Random

from cafs.core.scheduling.decisions import Decision
from cafs.core.scheduling.events import HostType, TaskSpec
from cafs.core.scheduling.explain import Choices, Decided, Seen
from cafs.core.scheduling.feeds import Feeds
from cafs.core.scheduling.health import Costs, Court
from cafs.core.scheduling.limits import Limits
from cafs.core.scheduling.notary import Notary
from cafs.core.scheduling.records import Host, Member, Peer, Task
from cafs.core.scheduling.states import HostState, TaskState


class State:
    """One scheduler's memory. Dicts whose values are None are sets that keep their order."""

    def __init__(self, limits: Limits, rng: Random) -> None:
        self.limits = limits
        self.rng = rng
        self.hosts: dict[str, Host] = {}
        """Longest silent first."""
        self.seeds: dict[str, Host] = {}
        self.tasks: dict[str, Task] = {}
        """Longest not looked at first."""
        self.peers: dict[str, Peer] = {}
        """Downloads under way."""
        self.waiting: dict[Peer, None] = {}
        """Those that want pieces, longest not looked at first."""
        self.seeding: dict[Task, None] = {}
        self.away: dict[Peer, float] = {}
        """Those at the source whose host's stream broke, and when: longest ago first."""
        self.quarantined: dict[Task, None] = {}
        self.dirty: dict[Member, None] = {}
        """Members of small swarms with changes they have not been told of."""
        self.dirty_large: dict[Member, None] = {}
        self.news: dict[Task, None] = {}
        """Tasks with digests that were not told yet."""
        self.news_large: dict[Task, None] = {}
        self.court = Court(limits.sole_accusations)
        self.costs = Costs()
        self.choices = Choices(limits.explained_choices)
        self.feeds = Feeds(limits.fed_pairs)
        self.out: list[Decision] = []
        self.last: list[Decision] = []
        self.counts: Counter[str] = Counter()

    def decide(self, decision: Decision) -> None:
        """Add to what the present event leads to."""
        self.out.append(decision)

    def decide_last(self, decision: Decision) -> None:
        """The same, told after all else."""
        self.last.append(decision)

    def explain(
        self, now: float, task: Task, what: str, why: str, *, peer_id: str = "", seen: Seen | None = None
    ) -> None:
        """Remember why."""
        self.counts[f"decided_{what}"] += 1
        decided = Decided(now, task.id, peer_id, what, why, seen)
        if seen is not None:
            self.choices.keep(decided)
        else:
            task.decided.append(decided)

    def mark(self, member: Member) -> None:
        """Its members have changed."""
        small = len(member.task.members) <= self.limits.small_swarm
        (self.dirty if small else self.dirty_large)[member] = None

    def mark_news(self, task: Task) -> None:
        """Its notary knows more."""
        small = len(task.members) <= self.limits.small_swarm
        (self.news if small else self.news_large)[task] = None

    def forget_news(self, task: Task) -> None:
        """It was told."""
        self.news.pop(task, None)
        self.news_large.pop(task, None)

    def unmark(self, member: Member) -> None:
        """It need not be told."""
        self.dirty.pop(member, None)
        self.dirty_large.pop(member, None)
        member.changed.clear()
        member.gone.clear()

    def task_for(self, spec: TaskSpec, now: float) -> Task | None:
        """The task, made when it is new; None: there are too many."""
        task = self.tasks.get(spec.task_id)
        if task is None:
            if len(self.tasks) >= self.limits.tasks:
                return None
            task = Task(spec, Notary(self.limits.pieces), deque(maxlen=self.limits.explained_per_task))
            self.tasks[spec.task_id] = task
        self.use(task, now)
        return task

    def use(self, task: Task, now: float) -> None:
        """Somebody wants it: it is the youngest now."""
        task.used_at = task.checked_at = now
        if self.tasks.pop(task.id, None) is not None:
            self.tasks[task.id] = task

    def may_serve(self, member: Member) -> bool:
        """Whether anybody may be sent there."""
        host = member.host
        return not member.shunned and host.upload_limit > 0 and host.state is not HostState.DRAINING

    def is_live(self, task: Task) -> bool:
        """It can still be downloaded."""
        return task.state not in (TaskState.QUARANTINED, TaskState.FORGOTTEN)

    def is_seed(self, host: Host) -> bool:
        """It may be told to fetch for others."""
        return host.hello.type is HostType.SEED
