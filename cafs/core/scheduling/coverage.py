"""Whether what a swarm lacks comes from anywhere: the task's state follows from it."""

from __future__ import annotations

from cafs.core.scheduling.records import Task
from cafs.core.scheduling.states import TaskState, TaskStep


def covered(task: Task) -> bool:
    """Every piece is held by a member that counts."""
    notary = task.notary
    if notary.pieces is None:
        return False
    if task.complete > 0 or not notary.pieces or task.covered:
        return True
    union = 0
    for member in task.members.values():
        if not member.shunned:
            union |= member.have
    task.covered = union & notary.everything == notary.everything
    return task.covered


def provided(task: Task) -> bool:
    """What is missing comes, or nothing is."""
    return bool(task.at_source) or bool(task.seeding) or covered(task)


def settle(task: Task) -> None:
    """Bring the task's state in line with who is at the source."""
    if task.state in (TaskState.QUARANTINED, TaskState.FORGOTTEN):
        return
    if task.at_source:
        step, wanted = TaskStep.FETCH, TaskState.FETCHING
    elif task.seeding:
        step, wanted = TaskStep.TRIGGER, TaskState.SEEDING
    elif covered(task):
        step, wanted = TaskStep.COVER, TaskState.SHARED
    else:
        step, wanted = TaskStep.LACK, TaskState.IDLE
    if task.state is TaskState.FETCHING and step is TaskStep.TRIGGER:
        task.step(TaskStep.LACK)
    if task.state is not wanted:
        task.step(step)
