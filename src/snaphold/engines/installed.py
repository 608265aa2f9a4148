"""Finds the engines of this machine. A new kind of database adds its line here; only ``wiring`` imports this module."""

import os

from snaphold.config import Settings
from snaphold.disk import make_traversable
from snaphold.engines.base import Engines
from snaphold.engines.mariadb.engine import MariaDB
from snaphold.engines.mariadb.installation import find_installation, reachable_installation
from snaphold.engines.mariadb.keys import KeyManagement
from snaphold.errors import SetupError


def installed_engines(settings: Settings) -> Engines:
    """Return the engines that the settings name or this machine has.

    With root, servers run as system users of their own: an engine that these cannot reach is copied below the state
    directory.

    Raises:
        SetupError: there is none, its parts are of different versions, or the servers' system users cannot reach it.
    """
    if settings.state_dir is None:
        raise SetupError("the setting state_dir is missing")
    installation = find_installation(settings.engine_dir)
    if os.geteuid() == 0:
        state_dir = settings.state_dir.resolve()
        make_traversable(state_dir)
        installation = reachable_installation(installation, state_dir)
    return Engines([MariaDB(installation, KeyManagement.found(installation, settings.encryption_key_file))])
