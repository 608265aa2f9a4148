"""Starts, stops and removes the database servers of this host."""

import contextlib
import shutil
import socket
import time
import uuid
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Final

from snaphold import disk
from snaphold.config import Settings
from snaphold.engines.base import Denied, Engine, Engines, ServerConfig
from snaphold.errors import Permanent, Unavailable
from snaphold.host.directory import InstanceDirectory, Record
from snaphold.host.listening import AddressTaken, listening
from snaphold.host.processes import (
    Process,
    Spawned,
    end_process,
    ends_within,
    find_server,
    processes_of,
    spawn_detached,
)
from snaphold.host.records import Records
from snaphold.model import MIB

ERROR_LOG_LIMIT: Final = 8 << 20  # bytes; when a log is half as long, the next start begins a new one and keeps one
STOP_TIMEOUT_S: Final = 60.0  # for a server to write its pages back; then it is killed, and recovers at its next start
REMOVED: Final = ".removed."  # starts the name of a directory that is being deleted
_PING_TIMEOUT_S: Final = 2.0
_LONGEST: Final = 500  # characters of a server's message


class Lifecycle:
    """Runs one server process for each instance.

    A server is started detached: it continues to run when this process ends, and is found again by its command line.
    Every method may run twice.
    """

    def __init__(self, records: Records, engines: Engines, settings: Settings, *, own_system_users: bool) -> None:
        self._records = records
        self._engines = engines
        self._settings = settings
        self._own_system_users = own_system_users
        self._known: dict[str, Process] = {}  # where the server of an instance was found last

    def engine(self, record: Record) -> Engine:
        """Return the engine of an instance. Raises ``Permanent`` when this host does not have it any more."""
        return self._engines.of(record.datastore, record.version)

    def start(self, instance_id: str) -> None:
        """Make sure that the server runs and answers.

        Raises:
            NotFound: this host has no such instance.
            Permanent: the server does not start, or does not answer in time (it may be recovering, and is not killed).
        """
        with self._records.lock(instance_id):
            self.start_server(*self._records.built(instance_id))

    def stop(self, instance_id: str, *, patience_s: float = STOP_TIMEOUT_S) -> None:
        """Make sure that the server does not run. It is killed after ``patience_s``. Raises ``NotFound``."""
        with self._records.lock(instance_id):
            directory, record = self._records.built(instance_id)
            while (process := self.process(directory, record)) is not None:
                end_process(process, patience_s=patience_s)

    def restart(self, instance_id: str) -> None:
        """Stop the server and start it again. Raises as ``start`` does."""
        with self._records.lock(instance_id):
            self.stop(instance_id)
            self.start(instance_id)

    def note_memory(self, instance_id: str, ram_mb: int) -> None:
        """Give the server this much memory from its next start on. Raises ``NotFound``, ``Permanent``."""
        with self._records.lock(instance_id), disk.disk_faults("noting the server's memory"):
            directory, record = self._records.built(instance_id)
            if record.ram_mb != ram_mb:
                directory.write(record.model_copy(update={"ram_mb": ram_mb}))

    def delete(self, instance_id: str) -> None:
        """Stop the server and remove the instance, if it exists. Raises ``Permanent``."""
        with self._records.lock(instance_id), disk.disk_faults("removing an instance"):
            self.remove(instance_id)

    def remove(self, instance_id: str) -> None:
        """Kill every process of an instance and remove its directory. Raises ``OSError``, ``Permanent``.

        The directory is renamed first, so that the instance is gone at once.
        """
        directory = self._records.directory(instance_id)
        if not directory.path.is_dir():
            return
        owner = self._owner(directory)
        while (process := find_server(directory.data, owner, self._engines.serves)) is not None:
            end_process(process, patience_s=0)
        if owner is not None:
            for process in processes_of(owner, directory.path):
                end_process(process, patience_s=0)
        self._known.pop(instance_id, None)
        removed = self._records.path / f"{REMOVED}{uuid.uuid4().hex}"
        directory.path.rename(removed)
        disk.sync_directory(self._records.path)
        shutil.rmtree(removed)

    def _owner(self, directory: InstanceDirectory) -> disk.Owner | None:
        """The system user of an instance, even when its record is lost."""
        record = directory.read()
        if record is not None:
            return record.owner
        if not self._own_system_users or not directory.data.is_dir():
            return None
        facts = directory.data.lstat()
        return disk.Owner(uid=facts.st_uid, gid=facts.st_gid)

    def process(self, directory: InstanceDirectory, record: Record) -> Process | None:
        """Return the server process of an instance; None when it does not run. It may still be starting."""
        known = self._known.get(record.id)
        if known is None or not known.alive():
            known = find_server(directory.data, record.owner, self._engines.serves)
            if known is None:
                self._known.pop(record.id, None)
            else:
                self._known[record.id] = known
        return known

    def start_server(self, directory: InstanceDirectory, record: Record) -> None:
        """Start the server of an instance, complete or not, and wait until it answers. The caller holds the lock.

        Raises ``Permanent``; ``AddressTaken`` when another process listens on the instance's address.
        """
        engine = self.engine(record)
        since, spawned = 0, None
        if self.process(directory, record) is None:
            with disk.disk_faults("starting the server"):
                since = _error_log_size(directory)
                directory.make(record)  # restores what a reboot or an operator removed
                config = self._config(directory, record)
                engine.write_start_files(config)
                command = engine.command(config)
                with self._listening(engine, config) as sockets:
                    spawned = spawn_detached(
                        command.argv,
                        sandbox=command.sandbox,
                        environment=command.environment,
                        directory=directory.data,
                        owner=record.owner,
                        output=directory.start_log,
                        listening=sockets,
                        socket_names=engine.socket_names,
                    )
                self._known[record.id] = spawned.process
        self._wait_until_it_answers(engine, directory, record, since, spawned)
        engine.remove_start_files(directory)

    def _config(self, directory: InstanceDirectory, record: Record) -> ServerConfig:
        return ServerConfig(
            files=directory,
            owner=record.owner,
            memory_bytes=record.ram_mb * MIB,
            address=None if record.kind == "proof" else record.address,
            port=record.port,
            outgoing_ports=self._settings.instance_outgoing_ports,
        )

    def _listening(self, engine: Engine, config: ServerConfig) -> AbstractContextManager[Sequence[socket.socket]]:
        """Open the sockets that the server inherits; none when it has no network or opens its own."""
        if config.address is None or engine.socket_names is None:
            return contextlib.nullcontext(())
        return listening(config.address, config.port, config.files.socket, config.owner)

    def _wait_until_it_answers(
        self,
        engine: Engine,
        directory: InstanceDirectory,
        record: Record,
        log_since: int,
        spawned: Spawned | None,
    ) -> None:
        timeout_s = self._settings.start_timeout_s
        deadline = time.monotonic() + timeout_s
        while True:
            process = self.process(directory, record)
            if process is None:
                raise _not_started(engine, directory, record, log_since, spawned)
            try:
                engine.ping(directory, _PING_TIMEOUT_S)
            except Denied as error:  # the server has created the account before it accepted the connection
                raise Permanent(
                    "the database server does not know the host's own account", detail=str(error)
                ) from error
            except Unavailable as error:
                if time.monotonic() > deadline:
                    raise Permanent(f"the database server does not answer within {timeout_s:g} s: {error}") from error
            else:
                return
            ends_within(process, 0.01)


def _not_started(
    engine: Engine, directory: InstanceDirectory, record: Record, log_since: int, spawned: Spawned | None
) -> Permanent:
    """The reason why a server has ended. ``log_since``: where this start's messages begin in the error log."""
    log = disk.read_untrusted(directory.error_log, ERROR_LOG_LIMIT) or b""
    said = log[log_since:].decode(errors="replace")
    if engine.address_taken(said):
        return AddressTaken(f"another process listens on {record.address} port {record.port}")
    words = engine.last_errors(directory) or (said.strip().splitlines() or ["it logged nothing"])[-1][:_LONGEST]
    end = "" if spawned is None else f" ({spawned.verdict()})"
    return Permanent(f"the database server does not start: {engine.explain(said)}{end}", detail=words)


def _error_log_size(directory: InstanceDirectory) -> int:
    """The size of the error log in bytes. A long one is renamed first, so that a new one begins."""
    try:
        size = directory.error_log.lstat().st_size
    except FileNotFoundError:
        return 0
    if size > ERROR_LOG_LIMIT // 2:
        directory.error_log.rename(directory.error_log.with_suffix(".old"))
        return 0
    return size
