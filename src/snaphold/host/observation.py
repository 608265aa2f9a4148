"""Observes the servers of this host, and connects to them."""

import contextlib
import shutil
from collections.abc import Mapping
from functools import partial
from typing import Any, Final, Protocol

from snaphold import disk
from snaphold.config import Settings
from snaphold.engines.base import Administer, ServerAccess
from snaphold.errors import NotFound, Permanent, SnapholdError
from snaphold.host.lifecycle import Lifecycle
from snaphold.host.machine import listening_addresses
from snaphold.host.records import Records
from snaphold.protocol import HostCallKind, InstanceState
from snaphold.reasons import reason_of

_LOOK_TIMEOUT_S: Final = 2.0


class ObservedServers(Protocol):
    """What backups, heartbeats and host calls need of servers. It does not say who provisions, starts or stops them.

    ``Observation`` implements it for the servers that this host has created. Servers that the service did not create
    (adopted ones) need a second implementation of this protocol only; ``Provisioning`` and ``Lifecycle`` are not
    involved with them.
    """

    def state(self, instance_id: str) -> InstanceState:
        """Return the state of an instance now."""

    def incarnation(self, instance_id: str, *, max_lsn: int | None = None, ended: str | None = None) -> str:
        """Return the id of the present incarnation of the instance's data. Raises ``NotFound``, ``Unavailable``."""

    def saw_lsn(self, instance_id: str, incarnation: str, lsn: int) -> None:
        """Record that a backup of this incarnation contains changes up to this LSN."""

    def access(self, instance_id: str) -> ServerAccess:
        """Return how the engine's tools reach the server. Raises ``NotFound``."""

    def administer(self, instance_id: str) -> Administer:
        """Return a function that runs statements in the server. Raises ``NotFound``."""

    def ask(
        self, instance_id: str, kind: HostCallKind, payload: Mapping[str, Any], *, deadline_s: float = 15
    ) -> dict[str, Any]:
        """Answer a host call. Raises ``NotFound``, ``Refused`` and ``Unavailable``."""


class Observation(ObservedServers):
    """Observes instances without changing them."""

    def __init__(self, records: Records, lifecycle: Lifecycle, settings: Settings) -> None:
        self._records = records
        self._lifecycle = lifecycle
        self._settings = settings

    def ids(self) -> list[str]:
        """Return the ids of all complete instances, whether their servers run or not."""
        return sorted(name for name, record in self._records.all() if record is not None and record.built)

    def account(self, instance_id: str) -> str:
        """Return the account that an instance belongs to; empty if this host has no such instance."""
        try:
            record = self._records.directory(instance_id).read()
        except NotFound:
            return ""
        return "" if record is None else record.account

    def taken_addresses(self) -> list[str]:
        """Return the addresses that no new instance can get: other instances' or other processes' of this machine."""
        own = {record.address for _, record in self._records.all() if record is not None and record.address is not None}
        return sorted(own | listening_addresses(self._settings.instance_port))

    def running(self, instance_id: str) -> bool:
        """Return whether a server process exists. This is cheap; the server may not accept connections yet."""
        directory = self._records.directory(instance_id)
        record = directory.read()
        return record is not None and self._lifecycle.process(directory, record) is not None

    def state(self, instance_id: str) -> InstanceState:
        """Return the state of an instance now.

        ``running`` means that the server answered a query. ``used_bytes``: see ``disk.used_bytes``. The incarnation is
        missing while a long operation on the instance is running, and when the disk fails.
        """
        directory = self._records.directory(instance_id)
        record = directory.read()
        if record is None:
            return InstanceState(id=instance_id, running=False, fault="this host has no such instance")
        used_bytes = disk.used_bytes(directory.data) if directory.data.is_dir() else None
        try:
            engine = self._lifecycle.engine(record)
        except Permanent as error:
            return InstanceState(id=instance_id, running=False, used_bytes=used_bytes, fault=reason_of(error))
        if self._lifecycle.process(directory, record) is None:
            fault = f"its server does not run: {engine.explain(engine.last_errors(directory) or '')}"
            return InstanceState(id=instance_id, running=False, used_bytes=used_bytes, fault=fault)
        with self._records.held(instance_id) if record.built else contextlib.nullcontext(False) as held:
            # The LSN is read under the lock: one that was read before another thread's is lower than what that keeps.
            try:
                current, durable = engine.lsns(directory, _LOOK_TIMEOUT_S)
            except SnapholdError as error:
                return InstanceState(id=instance_id, running=False, used_bytes=used_bytes, fault=reason_of(error))
            incarnation = None
            if held:
                with contextlib.suppress(OSError):
                    incarnation = directory.incarnation(record, identity_file=engine.identity_file, lsn=current)
                    directory.saw(incarnation, durable)
        return InstanceState(
            id=instance_id, running=True, used_bytes=used_bytes, incarnation=incarnation, max_lsn=durable
        )

    def incarnation(self, instance_id: str, *, max_lsn: int | None = None, ended: str | None = None) -> str:
        """Return the id of the present incarnation of the instance's data (directory.py), by its server's LSN.

        ``max_lsn``, ``ended``: the highest LSN in the catalog, and the incarnation that the catalog knows to be over.
        Raises ``NotFound``, ``Unavailable`` and ``Permanent``.
        """
        with self._records.lock(instance_id), disk.disk_faults("reading the incarnation"):
            directory, record = self._records.built(instance_id)
            engine = self._lifecycle.engine(record)
            current, durable = engine.lsns(directory, self._settings.start_timeout_s)
            incarnation = directory.incarnation(
                record, identity_file=engine.identity_file, lsn=current, max_lsn=max_lsn or 0, ended=ended
            )
            directory.saw(incarnation, durable)
            return incarnation

    def saw_lsn(self, instance_id: str, incarnation: str, lsn: int) -> None:
        """Record that a backup of this incarnation contains changes up to this LSN.

        Raises ``NotFound`` and ``Permanent``.
        """
        with self._records.lock(instance_id), disk.disk_faults("keeping the LSN"):
            self._records.built(instance_id)[0].saw(incarnation, lsn)

    def access(self, instance_id: str) -> ServerAccess:
        """Return how the engine's tools reach the server, with an empty scratch directory. Raises ``NotFound``."""
        with self._records.lock(instance_id), disk.disk_faults("preparing the backup tool's directory"):
            directory, record = self._records.built(instance_id)
            engine = self._lifecycle.engine(record)
            shutil.rmtree(directory.scratch, ignore_errors=True)
            disk.make_directory(directory.scratch, owner=record.owner)
            return ServerAccess(
                data_directory=directory.data,
                socket=directory.socket,
                defaults_file=directory.backup_file,
                uid=record.uid,
                gid=record.uid,
                scratch=directory.scratch,
                messages=directory.tool_log,
                administer=engine.administer(directory),
                administer_as_tool=engine.administer(directory, as_tool=True),
                checkpoint=partial(engine.checkpoint, directory),
            )

    def administer(self, instance_id: str) -> Administer:
        """Return a function that runs statements in the server; a backup may run meanwhile. Raises ``NotFound``."""
        directory, record = self._records.built(instance_id)
        return self._lifecycle.engine(record).administer(directory)

    def ask(
        self, instance_id: str, kind: HostCallKind, payload: Mapping[str, Any], *, deadline_s: float = 15
    ) -> dict[str, Any]:
        """Answer a host call about what is in the server.

        Raises:
            NotFound: there is no such instance, database or user.
            BadRequest: a name is taken or is not allowed.
            Unprocessable: a client held a lock for longer than ``deadline_s``.
            Unavailable: the server does not answer.
        """
        directory, record = self._records.built(instance_id)
        return self._lifecycle.engine(record).call(directory, kind, payload, timeout_s=deadline_s)
