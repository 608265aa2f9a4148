"""The database servers of this machine: one object over ``DIR/instances`` (directory.py says what is in there)."""

import os
from typing import Final

from snaphold import disk
from snaphold.config import Settings
from snaphold.engines.base import Engines
from snaphold.errors import SetupError
from snaphold.host.lifecycle import Lifecycle
from snaphold.host.observation import Observation
from snaphold.host.provisioning import Provisioning
from snaphold.host.records import Records
from snaphold.protocol import Datastore


class Servers:
    """All instances of one state directory. Only one process may use a state directory at a time.

    It is thread-safe. Operations on one instance exclude each other; those on different instances run in parallel. Each
    method is documented in the part that it comes from: ``Provisioning``, ``Lifecycle`` or ``Observation``.

    Raises:
        SetupError: the servers' system users cannot reach the state directory.
    """

    def __init__(self, settings: Settings, engines: Engines) -> None:
        if settings.state_dir is None:
            raise SetupError("the setting state_dir is missing")
        self._settings = settings
        self.engines: Final = engines
        self.own_system_users: Final = os.geteuid() == 0
        state_dir = settings.state_dir.resolve()
        self.records: Final = Records(state_dir / "instances")
        _make_directories(self.records, own_system_users=self.own_system_users)

        lifecycle = Lifecycle(self.records, engines, settings, own_system_users=self.own_system_users)
        self.start: Final = lifecycle.start
        self.stop: Final = lifecycle.stop
        self.restart: Final = lifecycle.restart
        self.note_memory: Final = lifecycle.note_memory
        self.delete: Final = lifecycle.delete

        provisioning = Provisioning(self.records, lifecycle, engines, settings, own_system_users=self.own_system_users)
        self.create: Final = provisioning.create
        self.staging: Final = provisioning.staging
        self.finish_restore: Final = provisioning.finish_restore
        self.start_scratch_server: Final = provisioning.start_scratch_server
        self.discard_attempt: Final = provisioning.discard_attempt
        self.clear_leftovers: Final = provisioning.clear_leftovers
        self.result: Final = provisioning.result

        observation = Observation(self.records, lifecycle, settings)
        self.ids: Final = observation.ids
        self.account: Final = observation.account
        self.taken_addresses: Final = observation.taken_addresses
        self.running: Final = observation.running
        self.state: Final = observation.state
        self.incarnation: Final = observation.incarnation
        self.saw_lsn: Final = observation.saw_lsn
        self.access: Final = observation.access
        self.administer: Final = observation.administer
        self.ask: Final = observation.ask

    @property
    def datastores(self) -> list[Datastore]:
        """What this host can run."""
        return [engine.datastore for engine in self.engines]

    @property
    def networks(self) -> list[str]:
        """The networks that instances get their addresses from."""
        return self._settings.instance_networks

    @property
    def port(self) -> int:
        """The port of every instance."""
        return self._settings.instance_port


def _make_directories(records: Records, *, own_system_users: bool) -> None:
    """Create the directories of the state directory that servers work in.

    Raises:
        SetupError: they cannot be created, or the servers' system users cannot pass through them.
    """
    state_dir = records.path.parent
    if own_system_users:
        for directory in (state_dir, records.path):
            disk.make_traversable(directory)
        return
    try:
        state_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
        records.path.mkdir(mode=0o711, exist_ok=True)
    except OSError as error:
        raise SetupError(f"the state directory {state_dir} cannot be used: {error.strerror}") from error
