"""The agent's session with the API of one region: hello, then heartbeats, for as long as the agent runs."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import structlog

from snaphold.agent.context import TaskContext
from snaphold.agent.control import Control, pauses
from snaphold.agent.reconciler import DesiredStates
from snaphold.errors import SnapholdError, Superseded, Unauthorized
from snaphold.host.machine import memory_mb
from snaphold.host.servers import Servers
from snaphold.protocol import MAX_TAKEN, Heartbeat, Hello, InstanceState
from snaphold.reasons import reason_of

_THREADS: Final = 16  # a look at one instance that hangs must not make the host look dead
_RENEW_S: Final = 10.0  # between two heartbeats, until the API says how often it wants them

_REFUSALS_AT_START: Final = 20  # in about ten seconds: an API that starts now does not know the host's token yet

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Region:
    """A region that the agent serves: its API, and what its tasks work with."""

    name: str
    control: Control
    context: TaskContext


class HostReporter:
    """Describes this host and its instances to an API. All sessions share one."""

    def __init__(self, servers: Servers, *, accepts_shared: bool) -> None:
        self._servers = servers
        self._accepts_shared = accepts_shared
        self._pool = ThreadPoolExecutor(_THREADS, "observe")

    def hello(self, session_id: str) -> Hello:
        """Describe the host, with the states of its instances."""
        return Hello(
            session=session_id,
            datastores=self._servers.datastores,
            instances=self._states(),
            shared_system_user=not self._servers.own_system_users,
            accepts_shared=self._accepts_shared,
            memory_mb=memory_mb(),
            networks=self._servers.networks,
            instance_port=self._servers.port,
            taken=self._servers.taken_addresses()[:MAX_TAKEN],
        )

    def heartbeat(self, session_id: str) -> Heartbeat:
        """Describe the states of the instances."""
        return Heartbeat(
            session=session_id, instances=self._states(), taken=self._servers.taken_addresses()[:MAX_TAKEN]
        )

    def shutdown(self) -> None:
        """Return when no thread observes an instance any more."""
        self._pool.shutdown(cancel_futures=True)

    def _states(self) -> list[InstanceState]:
        return list(self._pool.map(self._state, self._servers.ids()))

    def _state(self, instance_id: str) -> InstanceState:
        """The state of an instance. An error is a fault of this instance, and does not affect the others."""
        try:
            return self._servers.state(instance_id)
        except Exception as error:  # noqa: BLE001 - one instance that cannot be observed must not stop the heartbeats of its host
            _log.warning("instance.not_observed", instance=instance_id, exc_info=True)
            return InstanceState(id=instance_id, running=False, fault=reason_of(error))


class Session:
    """The session with one region. Its threads share it.

    ``id``: the same for all regions, new with each process: a newer one supersedes it.
    ``fault_pause_s``: the pause after an error that nobody foresaw.
    """

    def __init__(
        self,
        region: Region,
        session_id: str,
        reporter: HostReporter,
        stopping: threading.Event,
        *,
        fault_pause_s: float,
    ) -> None:
        self.region: Final = region
        self.id: Final = session_id
        self.desired = DesiredStates(asked_s=0, instances={})
        self.renew_s = _RENEW_S
        self._reporter = reporter
        self._stopping = stopping
        self._fault_pause_s = fault_pause_s
        self._known = threading.Event()
        self._was_known = False

    def run(self) -> None:
        """Keep the session until the agent stops."""
        waits, refusals = pauses(), 0
        while not self._stopping.is_set():
            try:
                self.desired = self._beat() if self._known.is_set() else self._greet()
            except SnapholdError as error:
                refusals = refusals + 1 if isinstance(error, Unauthorized) else 0
                if refusals == (1 if self._was_known else _REFUSALS_AT_START):
                    _log.warning("host.refused", region=self.region.name, cause="it was removed or has another token")
                self.note_refusal(error)
                _log.debug("region.no_answer", region=self.region.name, error=str(error))
                self._stopping.wait(next(waits))
            except Exception:  # noqa: BLE001 - if this thread ended, the host would seem dead although it works
                self.back_off("session.failed")
            else:
                waits, refusals = pauses(), 0
                self._stopping.wait(self.renew_s)

    def wait_until_known(self, timeout_s: float) -> bool:
        """Wait until the API knows this session; False when it does not after so many seconds."""
        return self._known.wait(timeout_s)

    def note_refusal(self, error: SnapholdError) -> None:
        """Say hello again when this error means that the API does not know the session, or the host's token."""
        if isinstance(error, (Unauthorized, Superseded)):
            self._known.clear()

    def back_off(self, event: str) -> None:
        """Log the exception that is being handled, which nobody foresaw, and pause."""
        if not self._stopping.is_set():  # when the agent stops, its pools are shut down, and their users get errors
            _log.exception(event, region=self.region.name)
        self._stopping.wait(self._fault_pause_s)

    def _greet(self) -> DesiredStates:
        asked_s = time.monotonic()
        welcome = self.region.control.hello(self._reporter.hello(self.id))
        self.renew_s = welcome.renew_s
        self._known.set()
        self._was_known = True
        _log.info("session.opened", region=self.region.name, url=self.region.control.url, host=welcome.host_id)
        return DesiredStates(asked_s=asked_s, instances=welcome.instances)

    def _beat(self) -> DesiredStates:
        asked_s = time.monotonic()
        desired = self.region.control.heartbeat(self._reporter.heartbeat(self.id))
        return DesiredStates(asked_s=asked_s, instances=desired.instances)
