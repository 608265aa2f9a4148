"""The table of kinds of tasks is complete."""

from snaphold.protocol import TaskKind
from snaphold.service.outcomes import OUTCOMES
from snaphold.task_kinds import TASK_KINDS, Payload


def test_every_kind_of_task_has_rules_and_an_outcome() -> None:
    """No kind of task can be given to a host whose end, or whose silence, the control plane does not understand."""
    kinds = set(TaskKind)
    assert set(TASK_KINDS) == kinds
    assert set(OUTCOMES) == kinds


def test_every_kind_of_task_carries_fields_of_the_payload() -> None:
    """What a kind carries is a field that a payload has, so that it reaches its host."""
    carried = set[str]().union(*(rules.carries for rules in TASK_KINDS.values()))
    assert carried <= set(Payload.model_fields)
