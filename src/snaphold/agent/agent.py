"""The agent of a machine: it serves the regions it was told of, until it is told to stop."""

import contextlib
import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Literal

import structlog

from snaphold.agent.context import TaskContext
from snaphold.agent.control import Control, pauses, until_answered
from snaphold.agent.host_calls import Questions, answer_to
from snaphold.agent.lease import Lease
from snaphold.agent.tasks import attempted
from snaphold.config import Settings
from snaphold.errors import Permanent, SnapholdError, Superseded, Transient, Unauthorized, in_full
from snaphold.host.machine import memory_mb
from snaphold.host.servers import Servers
from snaphold.protocol import MAX_TAKEN, Claim, Desired, Heartbeat, Hello, HostCall, InstanceState, Report, Task
from snaphold.reasons import reason_of

_POLL_S: Final = 20.0  # how long a claim waits for work
_POLL_WITHOUT_SLOTS_S: Final = 2.0  # the same while every slot for tasks is taken
_WATCH_INTERVAL_S: Final = 1.0  # between two looks at the database servers
_FAULT_PAUSE_S: Final = 10.0  # before a server that does not start is started again
_RECONCILED_AT_ONCE: Final = 4
_LOOKS_AT_ONCE: Final = 16

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class DesiredStates:
    """How the catalog wants instances to be, and when it was asked (``time.monotonic()``)."""

    asked_s: float
    instances: Mapping[str, Literal["running", "stopped", "absent"]]


@dataclass(kw_only=True)
class Region:
    """One region that the agent serves. ``context`` is what its tasks work with."""

    name: str
    control: Control
    context: TaskContext
    desired: DesiredStates = field(default_factory=lambda: DesiredStates(asked_s=0, instances={}))
    known: threading.Event = field(default_factory=threading.Event)  # the API knows our session
    renew_s: float = 10.0


class Agent:
    """All that one agent process does. ``run`` returns when ``stopping`` is set; the database servers go on.

    ``accepts_shared``: see protocol.Hello.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        regions: Sequence[Region],
        servers: Servers,
        accepts_shared: bool,
    ) -> None:
        self._settings = settings
        self._regions = regions
        self._servers = servers
        self._accepts_shared = accepts_shared
        self._session = secrets.token_hex(16)
        self._stopping = threading.Event()
        self._instance_locks: dict[str, threading.Lock] = defaultdict(threading.Lock)
        self._worked_on: dict[str, float] = defaultdict(float)  # when the last task of an instance ended
        self._leases: set[Lease] = set()
        self._not_before: dict[str, float] = defaultdict(
            float
        )  # when an instance that gives trouble is looked at again
        self._tasks = ThreadPoolExecutor(settings.agent_tasks, "task")
        self._host_calls = Questions()
        self._reconcilers = ThreadPoolExecutor(_RECONCILED_AT_ONCE, "care")
        self._looks = ThreadPoolExecutor(_LOOKS_AT_ONCE, "look")  # one that hangs must not make the host look dead

    def run(self, stopping: threading.Event) -> None:
        """Clear away what an earlier process left half-made, then serve until ``stopping`` is set."""
        self._servers.clear_leftovers()
        if not self._servers.own_system_users:
            _log.warning(
                "servers share a system user", other_accounts="accepted" if self._accepts_shared else "refused"
            )
        for region in self._regions:
            threading.Thread(
                target=self._keep_in_touch, args=(region,), name=f"touch-{region.name}", daemon=True
            ).start()
            threading.Thread(target=self._claim, args=(region,), name=f"claim-{region.name}", daemon=True).start()
        _log.info("agent started", regions=[region.name for region in self._regions], session=self._session[:8])
        while not stopping.wait(_WATCH_INTERVAL_S):
            try:
                self._reconcile_servers()
            except Exception:  # noqa: BLE001 - the loop that must not die: servers that end would stay so
                _log.exception("servers cannot be looked after")
                stopping.wait(_FAULT_PAUSE_S)
        self._stop()

    def _stop(self) -> None:
        """End what is going on; what was not reported by now is ended by the control plane at the next hello."""
        self._stopping.set()
        for lease in list(self._leases):
            lease.stop.set()
        self._host_calls.shutdown()
        for pool in (self._reconcilers, self._tasks, self._looks):
            pool.shutdown(cancel_futures=True)
        for lease in list(self._leases):  # of tasks that had not begun
            lease.end()
        _log.info("agent stopped")

    # What is said without being asked: we are here, and so are the servers.

    def _keep_in_touch(self, region: Region) -> None:
        waits, refused = pauses(), False
        while not self._stopping.is_set():
            try:
                region.desired = self._greet(region) if not region.known.is_set() else self._beat(region)
            except SnapholdError as error:
                if isinstance(error, Unauthorized) and not refused:
                    _log.warning("host refused: it was removed, or has another token", region=region.name)
                refused = isinstance(error, Unauthorized)
                if isinstance(error, (Unauthorized, Superseded)):
                    region.known.clear()
                _log.debug("region silent", region=region.name, error=str(error))
                self._stopping.wait(next(waits))
            except Exception:  # noqa: BLE001 - the loop that must not die: the host would be silent, though it lives
                self._back_off("keeping in touch failed", region=region.name)
            else:
                waits, refused = pauses(), False
                self._stopping.wait(region.renew_s)

    def _greet(self, region: Region) -> DesiredStates:
        asked_s = time.monotonic()
        welcome = region.control.hello(
            Hello(
                session=self._session,
                datastores=self._servers.datastores,
                instances=self._states(),
                shared_system_user=not self._servers.own_system_users,
                accepts_shared=self._accepts_shared,
                memory_mb=memory_mb(),
                networks=self._servers.networks,
                instance_port=self._servers.port,
                taken=self._taken(),
            )
        )
        region.renew_s = welcome.renew_s
        region.known.set()
        _log.info("region joined", region=region.name, url=region.control.url, host=welcome.host_id)
        return DesiredStates(asked_s=asked_s, instances=welcome.instances)

    def _beat(self, region: Region) -> DesiredStates:
        asked_s = time.monotonic()
        message = Heartbeat(session=self._session, instances=self._states(), taken=self._taken())
        desired: Desired = region.control.heartbeat(message)
        return DesiredStates(asked_s=asked_s, instances=desired.instances)

    def _back_off(self, event: str, **facts: str) -> None:
        """Log the exception that is being handled, which nobody foresaw, and pause."""
        if not self._stopping.is_set():  # the pools are shut down by then
            _log.exception(event, **facts)
        self._stopping.wait(_FAULT_PAUSE_S)

    # What is asked for: tasks and questions.

    def _claim(self, region: Region) -> None:
        waits = pauses()
        while not self._stopping.is_set():
            if not region.known.wait(_POLL_WITHOUT_SLOTS_S):
                continue
            free = max(0, self._settings.agent_tasks - len(self._leases))
            claim = Claim(
                session=self._session,
                wait_s=_POLL_S if free else _POLL_WITHOUT_SLOTS_S,
                accept_tasks=free > 0,
                free_slots=free,
                at_work={lease.task.id: lease.task.attempt for lease in self._leases_of(region)},
            )
            try:
                work = region.control.claim(claim)
            except SnapholdError as error:
                if isinstance(error, (Unauthorized, Superseded)):
                    region.known.clear()
                _log.debug("nothing claimed", region=region.name, error=str(error))
                self._stopping.wait(next(waits))
                continue
            except Exception:  # noqa: BLE001 - the loop that must not die: the host would work no more, though it lives
                self._back_off("claiming failed", region=region.name)
                continue
            waits = pauses()
            for lease in self._leases_of(region):
                if lease.task.id in work.given_up:
                    lease.withdraw("it was told to stop")
            with contextlib.suppress(RuntimeError):  # the pools are shut down: we are stopping
                if work.task is not None:
                    self._take_on(region, work.task)
                if work.question is not None:
                    due_s = time.monotonic() + work.question.deadline_s
                    asked = work.question
                    account = self._servers.account(asked.instance_id)
                    self._host_calls.submit(account, asked.instance_id, partial(self._reply, region, asked, due_s))

    def _leases_of(self, region: Region) -> list[Lease]:
        """Those of this region's attempts that go on."""
        return [lease for lease in list(self._leases) if lease.control is region.control and lease.going_on]

    def _take_on(self, region: Region, task: Task) -> None:
        """Do the task as soon as a thread is free; its lease is renewed from now on.

        It may have to wait: of several regions each one may have found the last slot free.
        """
        lease = Lease(region.control, self._session, task, region.renew_s)
        self._leases.add(lease)
        lease.begin()
        try:
            self._tasks.submit(self._do, region, task, lease)
        except RuntimeError:
            lease.end()
            raise

    def _do(self, region: Region, task: Task, lease: Lease) -> None:
        """Attempt a task and report how it went. What was done stands only when the report was accepted."""
        facts = {"region": region.name, "task": task.id, "kind": task.kind.value}
        if task.instance_id is not None:
            facts["instance"] = task.instance_id
        if task.backup is not None:
            facts["backup"] = task.backup.id
        with structlog.contextvars.bound_contextvars(attempt=task.attempt, **facts):
            begun_s = time.monotonic()
            _log.info("task begun")
            try:
                with lease, self._lock_of(task), self._noted(task):
                    lease.check()
                    with attempted(region.context, task, lease) as outcome:
                        lease.report_follows()
                        report = Report(session=self._session, attempt=task.attempt, ok=True, **outcome)
                        self._report(region, task, report)
                _log.info("task done", seconds=round(time.monotonic() - begun_s, 3))
            except Superseded as error:
                _log.warning("task stopped", reason=str(error))
                if self._stopping.is_set() and lease.abandoned is None:
                    self._report_failure(region, task, "The agent of its host was stopped.")
            except Unreported as error:
                _log.warning("task not reported", reason=str(error))
            except Exception as error:  # noqa: BLE001 - the one loop that fails a task, whatever it was
                known = isinstance(error, SnapholdError)
                _log.warning("task failed", reason=in_full(error), exc_info=not known)
                self._report_failure(region, task, reason_of(error))
            finally:
                self._leases.discard(lease)

    def _lock_of(self, task: Task) -> contextlib.AbstractContextManager[object]:
        """What is done with an instance excludes whatever else is done with it."""
        return contextlib.nullcontext() if task.instance_id is None else self._instance_locks[task.instance_id]

    @contextlib.contextmanager
    def _noted(self, task: Task) -> Iterator[None]:
        """What was wished of an instance before a task of it ended says nothing any more."""
        try:
            yield
        finally:
            if task.instance_id is not None:
                self._worked_on[task.instance_id] = time.monotonic()

    def _report(self, region: Region, task: Task, report: Report) -> None:
        """Report until the API answers; it hears the same report again where its answer was lost.

        Raises:
            Superseded: the attempt was abandoned before.
            Unreported: nobody can say whether it was accepted; we are stopping, or the API makes no sense of it.
        """
        try:
            until_answered(partial(region.control.report, task.id, report), self._stopping)
        except (Permanent, Transient) as error:
            raise Unreported(str(error)) from error

    def _report_failure(self, region: Region, task: Task, reason: str) -> None:
        report = Report(session=self._session, attempt=task.attempt, ok=False, reason=reason)
        with contextlib.suppress(Superseded, Unreported):
            self._report(region, task, report)

    def _reply(self, region: Region, question: HostCall, due_s: float) -> None:
        answer = answer_to(self._servers, self._session, question, due_s=due_s)
        if answer is None:
            return
        with contextlib.suppress(SnapholdError):  # who asked has been told by the API that we were silent
            region.control.answer(question.id, answer)

    # The database servers: those that should run do.

    def _reconcile_servers(self) -> None:
        present = set(self._servers.ids())
        for region in self._regions:
            desired = region.desired
            for instance_id, wanted in desired.instances.items():
                if instance_id not in present or time.monotonic() < self._not_before[instance_id]:
                    continue
                if wanted == "running" and not self._servers.running(instance_id):
                    self._reconcile(instance_id, self._servers.start, desired.asked_s)
                if wanted == "stopped" and self._servers.running(instance_id):
                    self._reconcile(instance_id, self._servers.stop, desired.asked_s)
                if wanted == "absent":
                    self._reconcile(instance_id, self._servers.delete, desired.asked_s)

    def _reconcile(self, instance_id: str, what: Callable[[str], None], asked_s: float) -> None:
        """Do this in another thread, unless the instance is, or was since, worked on: then its need is not yet known.

        A server that was stopped a moment ago must not be started because it was wanted before.
        """

        def work() -> None:
            try:
                what(instance_id)
            except Exception as error:  # noqa: BLE001 - nobody else would hear of it; it is tried again
                _log.warning(
                    "instance not as it should be",
                    instance=instance_id,
                    reason=in_full(error),
                    exc_info=not isinstance(error, SnapholdError),
                )
                self._not_before[instance_id] = time.monotonic() + _FAULT_PAUSE_S
            else:
                _log.info("instance put right", instance=instance_id, by=what.__name__)
            finally:
                self._instance_locks[instance_id].release()

        if self._instance_locks[instance_id].acquire(blocking=False):
            if asked_s <= self._worked_on[instance_id]:
                self._instance_locks[instance_id].release()
                return
            self._reconcilers.submit(work)

    def _taken(self) -> list[str]:
        return self._servers.taken_addresses()[:MAX_TAKEN]

    def _states(self) -> list[InstanceState]:
        return list(self._looks.map(self._state, self._servers.ids()))

    def _state(self, instance_id: str) -> InstanceState:
        """How an instance is; what goes wrong with the look is its fault, and no other instance's."""
        try:
            return self._servers.state(instance_id)
        except Exception as error:  # noqa: BLE001 - one instance that cannot be looked at must not silence its host
            _log.warning("instance cannot be looked at", instance=instance_id, exc_info=True)
            return InstanceState(id=instance_id, running=False, fault=reason_of(error))


class Unreported(SnapholdError):
    """Whether the API has accepted the report is not known: what was done is left, and the catalog says what for."""
