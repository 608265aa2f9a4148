"""The database servers of a host, on the engines that this machine has."""

from snaphold.config import Settings
from snaphold.engines.installed import installed_engines
from snaphold.engines.mariadb.engine import MariaDB
from snaphold.engines.mariadb.installation import Installation
from snaphold.host.servers import Servers


def open_servers(settings: Settings) -> Servers:
    """The servers of a state directory, as an agent opens them."""
    return Servers(settings, installed_engines(settings))


def mariadb_of(servers: Servers) -> MariaDB:
    """The MariaDB that these servers run on."""
    (engine,) = servers.engines
    assert isinstance(engine, MariaDB)
    return engine


def installation_of(servers: Servers) -> Installation:
    """The programs of that MariaDB."""
    return mariadb_of(servers).installation
