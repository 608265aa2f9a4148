"""Puts a machine's agent together: the wing that acts. Nothing of the record is imported here."""

from collections.abc import Sequence

from snaphold.agent.agent import Agent, Region
from snaphold.agent.control import Control
from snaphold.agent.room import Room, courtesy_of
from snaphold.cli.state import Endpoint, StateDirectory
from snaphold.cli.stores import stores_of
from snaphold.config import Settings
from snaphold.engines.mariadb import MariaDB
from snaphold.host.servers import Servers
from snaphold.reasons import keep_private
from snaphold.stream.process import set_courtesy


def servers_of(settings: Settings, state: StateDirectory) -> Servers:
    """The database servers of this machine. Raises ``SetupError`` where there is no engine, or no way to run it."""
    return Servers(settings.model_copy(update={"state_dir": state.path}))


def built_agent(settings: Settings, state: StateDirectory, endpoints: Sequence[Endpoint]) -> Agent:
    """The agent of this machine.

    It alone makes up its mind about servers that share a system user: refusing is its default, ``serve`` says warn.
    """
    set_courtesy(courtesy_of(settings))
    servers = servers_of(settings, state)
    keep_private([servers.installation.root])
    engines = {"mariadb": MariaDB(servers.installation, servers.keys)}
    regions = [
        Region(
            name=endpoint.name,
            control=Control(endpoint.url, state.agent_token(endpoint.name)),
            room=Room(servers=servers, engines=engines, stores=stores_of(state, endpoint.name), settings=settings),
        )
        for endpoint in endpoints
    ]
    accepts_shared = settings.shared_system_user == "warn"
    return Agent(settings=settings, regions=regions, servers=servers, accepts_shared=accepts_shared)
