"""The agent of a machine: it serves its regions until it is told to stop."""

import secrets
import threading
from collections.abc import Sequence

import structlog

from snaphold.agent.claim_loop import ClaimLoop
from snaphold.agent.host_calls import HostCalls
from snaphold.agent.instance_activity import InstanceActivity
from snaphold.agent.reconciler import Reconciler
from snaphold.agent.session import HostReporter, Region, Session
from snaphold.agent.task_runner import TaskRunner
from snaphold.config import Settings
from snaphold.host.servers import Servers

_log = structlog.get_logger(__name__)


class Agent:
    """One agent process. ``run`` returns when ``stopping`` is set; the database servers keep running.

    Each region has a session (:mod:`~snaphold.agent.session`) and a claim loop; all regions share the task runner, the
    host calls and the reconciler.

    ``accepts_shared``: see protocol.Hello. ``reconcile_interval_s``: between two looks at the database servers.
    ``fault_pause_s``: the pause after an error that nobody foresaw, and before a server that could not be started is
    started again.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        regions: Sequence[Region],
        servers: Servers,
        accepts_shared: bool,
        reconcile_interval_s: float = 1.0,
        fault_pause_s: float = 10.0,
    ) -> None:
        self._servers = servers
        self._accepts_shared = accepts_shared
        self._reconcile_interval_s = reconcile_interval_s
        self._fault_pause_s = fault_pause_s
        self._stopping = threading.Event()
        activity = InstanceActivity()
        self._reporter = HostReporter(servers, accepts_shared=accepts_shared)
        self._reconciler = Reconciler(servers, activity, fault_pause_s=fault_pause_s)
        self._calls = HostCalls()
        self.tasks = TaskRunner(settings.agent_tasks, activity, self._stopping)
        session_id = secrets.token_hex(16)
        self._sessions = [
            Session(region, session_id, self._reporter, self._stopping, fault_pause_s=fault_pause_s)
            for region in regions
        ]

    def run(self, stopping: threading.Event) -> None:
        """Remove what an earlier process left incomplete, then serve until ``stopping`` is set."""
        self._servers.clear_leftovers()
        if not self._servers.own_system_users:
            _log.warning("host.shared_system_user", other_accounts="accepted" if self._accepts_shared else "refused")
        for session in self._sessions:
            name = session.region.name
            claims = ClaimLoop(session, self._servers, self.tasks, self._calls, self._stopping)
            threading.Thread(target=session.run, name=f"session-{name}", daemon=True).start()
            threading.Thread(target=claims.run, name=f"claim-{name}", daemon=True).start()
        _log.info("agent.started", regions=[session.region.name for session in self._sessions])
        while not stopping.wait(self._reconcile_interval_s):
            try:
                self._reconciler.reconcile(session.desired for session in self._sessions)
            except Exception:  # noqa: BLE001 - if this loop ended, servers that crash would stay down
                _log.exception("reconciler.failed")
                stopping.wait(self._fault_pause_s)
        self._stop()

    def _stop(self) -> None:
        """End everything. The control plane ends the attempts that are not reported by now at the next hello."""
        self._stopping.set()
        self.tasks.tell_to_stop()
        self._calls.shutdown()
        self._reconciler.shutdown()
        self.tasks.shutdown()
        self._reporter.shutdown()
        _log.info("agent.stopped")
