"""The kinds of tasks that hosts are given: one table of what each carries, makes and costs, and what silence means.

What the end of a task does to the catalog is the other half of the table (``snaphold.service.outcomes``), and how a
host performs it is the agent's. A new kind is a member of ``TaskKind`` and one row in each of the three.

A task is one step on one host. Work that needs several steps, on one host or on several, is a sequence of tasks: the
outcome of each inserts the next, in the transaction that ends it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Literal

from pydantic import Field

from snaphold.protocol import BackupSpec, ChainLink, InstanceSpec, Memory, Message, TaskKind


class OnSilence(StrEnum):
    """What happens to a task whose host has not been heard from for the time of a lease."""

    ABANDON = "abandon"  # the task fails: somebody waits for the result, and another host may be asked
    REQUEUE = "requeue"  # the task waits until its host is back, as a further attempt: it may be done twice


class Payload(Message):
    """What a host is given to do, beside the ids of task, instance and backup. The kind says which fields are set."""

    instance: InstanceSpec | None = None
    chain: list[ChainLink] = Field(default_factory=list)
    backup: BackupSpec | None = None
    memory: Memory | None = None
    flavor_id: int | None = None  # kept for the end of the task; hosts ignore it


@dataclass(frozen=True, kw_only=True)
class TaskRules:
    """The rules of one kind of task. ``urgency``: of an account's own tasks the lowest number is claimed first."""

    carries: frozenset[str]  # fields of Payload
    makes: Literal["backup", "instance"] | None
    on_silence: OnSilence
    takes_long: bool  # as long as the bytes of a database take
    urgency: int = 0

    def stored(self, payload: Payload) -> dict[str, Any]:
        """The payload as the catalog keeps it: JSON values of the fields that this kind carries."""
        return payload.model_dump(mode="json", include=set(self.carries))


_LIFECYCLE: Final = TaskRules(
    carries=frozenset({"memory", "flavor_id"}), makes=None, on_silence=OnSilence.REQUEUE, takes_long=False
)

TASK_KINDS: Final[Mapping[TaskKind, TaskRules]] = {
    TaskKind.CREATE: TaskRules(
        carries=frozenset({"instance", "chain"}), makes="instance", on_silence=OnSilence.ABANDON, takes_long=False
    ),
    TaskKind.RESTORE: TaskRules(
        carries=frozenset({"instance", "chain"}),
        makes="instance",
        on_silence=OnSilence.ABANDON,
        takes_long=True,
        urgency=1,
    ),
    TaskKind.BACKUP: TaskRules(
        carries=frozenset({"backup", "chain"}), makes="backup", on_silence=OnSilence.ABANDON, takes_long=True
    ),
    TaskKind.CONSOLIDATE: TaskRules(
        carries=frozenset({"backup", "chain"}),
        makes="backup",
        on_silence=OnSilence.ABANDON,
        takes_long=True,
        urgency=2,
    ),
    TaskKind.VERIFY: TaskRules(
        carries=frozenset({"chain"}), makes=None, on_silence=OnSilence.ABANDON, takes_long=True, urgency=2
    ),
    TaskKind.RESTART: _LIFECYCLE,
    TaskKind.STOP: _LIFECYCLE,
    TaskKind.START: _LIFECYCLE,
    TaskKind.RESIZE: _LIFECYCLE,
    TaskKind.DELETE: _LIFECYCLE,
}

MAKING_BACKUPS: Final = tuple(kind for kind, rules in TASK_KINDS.items() if rules.makes == "backup")
MAKING_INSTANCES: Final = tuple(kind for kind, rules in TASK_KINDS.items() if rules.makes == "instance")
ABANDONED_IN_SILENCE: Final = tuple(kind for kind, rules in TASK_KINDS.items() if rules.on_silence is OnSilence.ABANDON)
TAKING_LONG: Final = tuple(kind for kind, rules in TASK_KINDS.items() if rules.takes_long)
