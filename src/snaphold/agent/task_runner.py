"""Runs tasks: each in a thread of a pool, under a lease, until its result is reported."""

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

import structlog

from snaphold.agent.control import Control, until_answered
from snaphold.agent.instance_activity import InstanceActivity
from snaphold.agent.lease import Lease
from snaphold.agent.session import Session
from snaphold.agent.tasks import attempted
from snaphold.errors import Permanent, SnapholdError, Superseded, Transient, in_full
from snaphold.protocol import Report, Task, TaskKind
from snaphold.reasons import reason_of

_CHANGE_STATE: Final = frozenset(  # tasks that change the state that the catalog wants an instance to be in
    {
        TaskKind.CREATE,
        TaskKind.RESTORE,
        TaskKind.RESTART,
        TaskKind.STOP,
        TaskKind.START,
        TaskKind.RESIZE,
        TaskKind.DELETE,
    }
)

_log = structlog.get_logger(__name__)


class Unreported(SnapholdError):
    """Nobody knows whether the API has accepted the report. The result is kept: the catalog decides its fate."""


class TaskRunner:
    """The tasks of this agent, of all its regions. ``slots``: how many run at once."""

    def __init__(self, slots: int, activity: InstanceActivity, stopping: threading.Event) -> None:
        self._slots = slots
        self._activity = activity
        self._stopping = stopping
        self._leases: set[Lease] = set()
        self._pool = ThreadPoolExecutor(slots, "task")

    @property
    def free_slots(self) -> int:
        """How many further tasks could begin now."""
        return max(0, self._slots - len(self._leases))

    def leases(self, control: Control | None = None) -> list[Lease]:
        """The leases of all attempts that have not ended; with ``control``, those of this region that may go on."""
        leases = list(self._leases)
        return leases if control is None else [one for one in leases if one.control is control and one.going_on]

    def start(self, session: Session, task: Task) -> None:
        """Run the task as soon as a thread is free; its lease is renewed from now on.

        It may have to wait: several regions may each have found the last slot free. Raises ``RuntimeError`` after
        ``stop``.
        """
        lease = Lease(session.region.control, session.id, task, session.renew_s)
        self._leases.add(lease)
        lease.begin()
        try:
            self._pool.submit(self._run, session, task, lease)
        except RuntimeError:
            self._leases.discard(lease)
            lease.end()
            raise

    def tell_to_stop(self) -> None:
        """Have every attempt end soon; returns at once."""
        for lease in list(self._leases):
            lease.stop.set()

    def shutdown(self) -> None:
        """Begin no task that waits, and return when all that run have ended."""
        self._pool.shutdown(cancel_futures=True)
        for lease in list(self._leases):  # of tasks that have not begun
            lease.end()

    def _run(self, session: Session, task: Task, lease: Lease) -> None:
        """Attempt a task and report the result, which is only kept if the API accepts the report."""
        facts = {"region": session.region.name, "task": task.id, "kind": task.kind.value}
        if task.instance_id is not None:
            facts["instance"] = task.instance_id
        if task.backup is not None:
            facts["backup"] = task.backup.id
        with structlog.contextvars.bound_contextvars(attempt=task.attempt, **facts):
            begun_s = time.monotonic()
            _log.info("task.started")
            try:
                with lease, self._activity.task(task.instance_id, changes_state=task.kind in _CHANGE_STATE):
                    lease.check()
                    with attempted(session.region.context, task, lease) as outcome:
                        lease.report_follows()
                        report = Report(session=session.id, attempt=task.attempt, ok=True, **outcome)
                        self._report(session, task, report)
                _log.info("task.completed", seconds=round(time.monotonic() - begun_s, 3))
            except Superseded as error:
                _log.warning("task.stopped", reason=str(error))
                if self._stopping.is_set() and lease.abandoned is None:
                    self._report_failure(session, task, "The agent of its host was stopped.")
            except Unreported as error:
                _log.warning("task.unreported", reason=str(error))
            except Exception as error:  # noqa: BLE001 - whatever it was, the task has failed and its thread goes on
                known = isinstance(error, SnapholdError)
                _log.warning("task.failed", reason=in_full(error), exc_info=not known)
                self._report_failure(session, task, reason_of(error))
            finally:
                self._leases.discard(lease)

    def _report(self, session: Session, task: Task, report: Report) -> None:
        """Send the report until the API answers. It may get the same report twice, when an answer was lost.

        Raises:
            Superseded: the attempt was abandoned before.
            Unreported: the agent is stopping, or the API does not understand the report.
        """
        try:
            until_answered(partial(session.region.control.report, task.id, report), self._stopping)
        except (Permanent, Transient) as error:
            raise Unreported(str(error)) from error

    def _report_failure(self, session: Session, task: Task, reason: str) -> None:
        report = Report(session=session.id, attempt=task.attempt, ok=False, reason=reason)
        with contextlib.suppress(Superseded, Unreported):
            self._report(session, task, report)
