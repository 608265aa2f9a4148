"""Which instances the reconciler may act on, beside the tasks."""

import threading
from contextlib import ExitStack

from snaphold.agent.instance_activity import InstanceActivity


class Clock:
    """Seconds that a test moves."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        """Now."""
        return self.now_s


def test_the_reconciler_keeps_away_from_tasks() -> None:
    """It may not act while a task works on the instance, nor on a state that was asked for before the task ended."""
    clock = Clock()
    activity = InstanceActivity(clock)
    with activity.task("one", changes_state=True):
        assert not activity.acquire("one", asked_s=clock.now_s + 1)
        assert activity.acquire("other", asked_s=clock.now_s)
    assert not activity.acquire("one", asked_s=clock.now_s)
    assert activity.acquire("one", asked_s=clock.now_s + 1)
    assert not activity.acquire("one", asked_s=clock.now_s + 1)


def test_backups_do_not_starve_a_crashed_server() -> None:
    """A task that does not change the desired state, such as a backup, leaves an earlier wish for the server valid."""
    clock = Clock()
    activity = InstanceActivity(clock)
    asked_s = clock.now_s
    for _ in range(3):
        clock.now_s += 1
        with activity.task("one", changes_state=False):
            assert not activity.acquire("one", asked_s=asked_s)
    assert activity.acquire("one", asked_s=asked_s)


def test_tasks_of_one_instance_exclude_each_other() -> None:
    """A task waits until the instance is free; a task without an instance waits for nobody."""
    activity = InstanceActivity()
    order: list[str] = []
    assert activity.acquire("one", asked_s=1)

    def work() -> None:
        with activity.task("one", changes_state=True):
            order.append("task")

    waiting = threading.Thread(target=work)
    waiting.start()
    with activity.task(None, changes_state=True):
        order.append("reconciler")
    activity.release("one")
    waiting.join(30)
    assert order == ["reconciler", "task"]


def test_a_postponed_instance() -> None:
    """The reconciler leaves it alone until the pause is over."""
    clock = Clock()
    activity = InstanceActivity(clock)
    activity.postpone("one", 10)
    clock.now_s += 9
    assert not activity.acquire("one", asked_s=clock.now_s)
    clock.now_s += 1
    assert activity.acquire("one", asked_s=clock.now_s)


def test_gone_instances_are_forgotten() -> None:
    """Not those that are on the host, that a task works on, or that a task has worked on since the host was asked."""
    clock = Clock()
    activity = InstanceActivity(clock)
    listed_s = clock.now_s + 5
    for instance_id in ("present", "gone", "busy"):
        with activity.task(instance_id, changes_state=True):
            pass
        activity.postpone(instance_id, 1000)
    clock.now_s = listed_s
    with activity.task("created since", changes_state=True):
        pass
    with ExitStack() as stack:
        stack.enter_context(activity.task("busy", changes_state=True))
        activity.forget_gone({"present"}, listed_s=listed_s)
    asked_s = listed_s - 1  # later than the first tasks' ends, sooner than that of the newest
    may_act = {name: activity.acquire(name, asked_s=asked_s) for name in ("present", "gone", "busy", "created since")}
    assert may_act == {"present": False, "gone": True, "busy": False, "created since": False}
