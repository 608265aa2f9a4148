"""Claims work from one region's API: tasks, and calls whose callers wait for the answer."""

import contextlib
import threading
import time
from functools import partial
from typing import Final

import structlog

from snaphold.agent.control import pauses
from snaphold.agent.host_calls import HostCalls, answer_to
from snaphold.agent.session import Session
from snaphold.agent.task_runner import TaskRunner
from snaphold.errors import SnapholdError
from snaphold.host.servers import Servers
from snaphold.protocol import Claim, HostCall, Work

_POLL_S: Final = 20.0  # how long the API may hold a claim while it has no work
_POLL_WITHOUT_SLOTS_S: Final = 2.0  # the same while no further task could begin

_log = structlog.get_logger(__name__)


class ClaimLoop:
    """Claims work while the API knows the session, and hands it to the task runner and the host calls."""

    def __init__(
        self, session: Session, servers: Servers, tasks: TaskRunner, calls: HostCalls, stopping: threading.Event
    ) -> None:
        self._session = session
        self._control = session.region.control
        self._servers = servers
        self._tasks = tasks
        self._calls = calls
        self._stopping = stopping

    def run(self) -> None:
        """Claim work until the agent stops."""
        waits = pauses()
        while not self._stopping.is_set():
            if not self._session.wait_until_known(_POLL_WITHOUT_SLOTS_S):
                continue
            try:
                work = self._control.claim(self._message())
                waits = pauses()
                self._hand_on(work)
            except SnapholdError as error:
                self._session.note_refusal(error)
                _log.debug("claim.failed", region=self._session.region.name, error=str(error))
                self._stopping.wait(next(waits))
            except Exception:  # noqa: BLE001 - if this thread ended, the host would do no work although it is alive
                self._session.back_off("claim.failed")

    def _message(self) -> Claim:
        free = self._tasks.free_slots
        return Claim(
            session=self._session.id,
            wait_s=_POLL_S if free else _POLL_WITHOUT_SLOTS_S,
            accept_tasks=free > 0,
            free_slots=free,
            at_work={lease.task.id: lease.task.attempt for lease in self._tasks.leases(self._control)},
        )

    def _hand_on(self, work: Work) -> None:
        """Stop the attempts that the control plane has abandoned, and begin what is new."""
        for lease in self._tasks.leases(self._control):
            if lease.task.id in work.given_up:
                lease.withdraw("it was told to stop")
        with contextlib.suppress(RuntimeError):  # the pools are shut down: the agent is stopping
            if work.task is not None:
                self._tasks.start(self._session, work.task)
            if work.question is not None:
                call, due_s = work.question, time.monotonic() + work.question.deadline_s
                account = self._servers.account(call.instance_id)
                self._calls.submit(account, call.instance_id, partial(self._answer, call, due_s))

    def _answer(self, call: HostCall, due_s: float) -> None:
        answer = answer_to(self._servers, self._session.id, call, due_s=due_s)
        if answer is None:
            return
        with contextlib.suppress(SnapholdError):  # the API tells the caller that the host did not answer
            self._control.answer(call.id, answer)
