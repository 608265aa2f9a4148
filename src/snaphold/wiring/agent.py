"""Builds the agent of a machine. Nothing of the catalog is imported here."""

import resource
from collections.abc import Sequence
from typing import Final

import structlog

from snaphold.agent.agent import Agent
from snaphold.agent.context import TaskContext, priority_of
from snaphold.agent.control import Control
from snaphold.agent.session import Region
from snaphold.config import Settings
from snaphold.engines.installed import installed_engines
from snaphold.host.servers import Servers
from snaphold.reasons import keep_private
from snaphold.sandbox import protection
from snaphold.stream.process import set_priority
from snaphold.wiring.logs import set_up_logs
from snaphold.wiring.state_directory import Endpoint, StateDirectory
from snaphold.wiring.stopping import until_stopped
from snaphold.wiring.stores import stores_of

_ENOUGH_FILES: Final = 16_384
_log = structlog.get_logger(__name__)


def run_agent(settings: Settings, state: StateDirectory, regions: Sequence[Endpoint]) -> None:
    """Run the agent of this machine, for these regions, until SIGTERM or SIGINT."""
    set_up_logs(settings, "agent")
    with state.lock("agent"), until_stopped() as stopping:
        agent_of(settings, state, regions).run(stopping)


def servers_of(settings: Settings, state: StateDirectory) -> Servers:
    """The database servers of this machine. Raises ``SetupError`` when no engine is found, or it cannot be run."""
    settings = settings.model_copy(update={"state_dir": state.path})
    return Servers(settings, installed_engines(settings))


def agent_of(settings: Settings, state: StateDirectory, endpoints: Sequence[Endpoint]) -> Agent:
    """The agent of this machine.

    It refuses servers of several accounts under one system user unless the settings say ``warn``, as `serve` does.
    """
    set_priority(priority_of(settings))
    _log_sandbox()
    _log_open_files()
    servers = servers_of(settings, state)
    keep_private(directory for engine in servers.engines for directory in engine.private_directories)
    regions = [
        Region(
            name=endpoint.name,
            control=Control(endpoint.url, state.agent_token(endpoint.name)),
            context=TaskContext(
                servers=servers, engines=servers.engines, stores=stores_of(state, endpoint.name), settings=settings
            ),
        )
        for endpoint in endpoints
    ]
    accepts_shared = settings.shared_system_user == "warn"
    return Agent(settings=settings, regions=regions, servers=servers, accepts_shared=accepts_shared)


def _log_open_files() -> None:
    """Warn when the hard limit of open files is low: the backup tool keeps every InnoDB table's file open at once."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < _ENOUGH_FILES:
        _log.warning(
            "host.few_open_files",
            hard_limit=hard,
            enough=_ENOUGH_FILES,
            effect="an instance with about as many tables cannot be backed up",
            remedy="raise LimitNOFILE (ulimit -Hn)",
        )


def _log_sandbox() -> None:
    """Log what this machine's kernel enforces for tools and servers; warn when it enforces only a part."""
    offered = protection()
    if offered.files and offered.connections:
        _log.info("host.sandbox", files="enforced", connections="enforced")
        return
    _log.warning(
        "host.sandbox_incomplete",
        files="enforced" if offered.files else "not enforced (Linux 5.19 with Landlock)",
        connections="enforced" if offered.connections else "not enforced (Linux 6.7 with Landlock)",
        effect="a tenant's root may reach what its system user may (docs/explanation/security.md)",
    )
