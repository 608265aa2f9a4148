"""Puts a machine's agent together: the wing that acts. Nothing of the catalog is imported here."""

import resource
from collections.abc import Sequence
from typing import Final

import structlog

from snaphold.agent.agent import Agent, Region
from snaphold.agent.context import TaskContext, priority_of
from snaphold.agent.control import Control
from snaphold.cli.state import Endpoint, StateDirectory
from snaphold.cli.stores import stores_of
from snaphold.config import Settings
from snaphold.engines.mariadb.tool import MariaDB
from snaphold.host.servers import Servers
from snaphold.reasons import keep_private
from snaphold.sandbox import protection
from snaphold.stream.process import set_priority

_ENOUGH_FILES: Final = 16_384
_log = structlog.get_logger(__name__)


def servers_of(settings: Settings, state: StateDirectory) -> Servers:
    """The database servers of this machine. Raises ``SetupError`` where there is no engine, or no way to run it."""
    return Servers(settings.model_copy(update={"state_dir": state.path}))


def built_agent(settings: Settings, state: StateDirectory, endpoints: Sequence[Endpoint]) -> Agent:
    """The agent of this machine.

    It alone makes up its mind about servers that share a system user: refusing is its default, ``serve`` says warn.
    """
    set_priority(priority_of(settings))
    _tell_of_the_sandbox()
    _tell_of_the_open_files()
    servers = servers_of(settings, state)
    keep_private([servers.installation.root])
    engines = {"mariadb": MariaDB(servers.installation, servers.keys)}
    regions = [
        Region(
            name=endpoint.name,
            control=Control(endpoint.url, state.agent_token(endpoint.name)),
            context=TaskContext(
                servers=servers, engines=engines, stores=stores_of(state, endpoint.name), settings=settings
            ),
        )
        for endpoint in endpoints
    ]
    accepts_shared = settings.shared_system_user == "warn"
    return Agent(settings=settings, regions=regions, servers=servers, accepts_shared=accepts_shared)


def _tell_of_the_open_files() -> None:
    """A warning where the hard limit leaves too few: the backup tool opens a file for each table of InnoDB at once."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < _ENOUGH_FILES:
        _log.warning(
            "the hard limit of open files is low: an instance with about as many tables cannot be backed up "
            "(ulimit -Hn, LimitNOFILE)",
            open_files=hard,
            enough=_ENOUGH_FILES,
        )


def _tell_of_the_sandbox() -> None:
    """What this machine's kernel enforces for tools and servers; a warning where it leaves something open."""
    offered = protection()
    if offered.files and offered.connections:
        _log.info("sandbox", files="enforced", connections="enforced")
        return
    _log.warning(
        "the kernel does not enforce the whole sandbox of tools and servers: a customer's root may reach what its "
        "system user may (docs/explanation/security.md)",
        files="enforced" if offered.files else "not enforced (Linux 5.19 with Landlock)",
        connections="enforced" if offered.connections else "not enforced (Linux 6.7 with Landlock)",
    )
