"""The database servers of this machine: one deep class over ``DIR/instances`` (what is in there: directory.py).

A server is started detached, goes on when the agent ends, and is found again by its command line. Everything here may
run twice: after a kill at any instruction, calling the same method again (or ``clear_leftovers``) ends in the same
state. Methods for one instance exclude each other; different instances do not wait for each other.
"""

import contextlib
import os
import shutil
import socket
import stat
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

from snaphold import disk
from snaphold.config import Settings
from snaphold.engines.base import Administer, ServerAccess
from snaphold.engines.mariadb import accounts, contents
from snaphold.engines.mariadb.installation import (
    Installation,
    closed_ancestor,
    find_installation,
    reachable_installation,
)
from snaphold.engines.mariadb.keys import KeyManagement
from snaphold.engines.mariadb.options import KEY_PLUGIN
from snaphold.engines.mariadb.session import MOST_BYTES, Denied, Session, session
from snaphold.engines.mariadb.template import template_directory
from snaphold.engines.mariadb.words import in_words
from snaphold.errors import NotFound, Permanent, SetupError, SnapholdError, Superseded, Unavailable
from snaphold.formats.xbstream import TOOL_FILES
from snaphold.host.directory import IDENTIFIER, InstanceDirectory, Record
from snaphold.host.listening import MOST_EXTRA, AddressTaken, listening
from snaphold.host.machine import listening_addresses
from snaphold.host.placement import free_addresses, free_system_user
from snaphold.host.processes import (
    Process,
    Spawned,
    end_process,
    ends_within,
    find_server,
    processes_of,
    spawn_detached,
)
from snaphold.protocol import Datastore, HostCallKind, InstanceResult, InstanceSpec, InstanceState
from snaphold.reasons import reason_of
from snaphold.sandbox import Sandbox

MEGABYTE: Final = 1 << 20  # bytes
ERROR_LOG_LIMIT: Final = 8 << 20  # bytes, after which a start begins a new error log and keeps one old
STOP_TIMEOUT_S: Final = 60.0  # for a server that writes its pages back; then it is killed, and recovers
LOOK_TIMEOUT_S: Final = 1.0  # of a look at an instance that something is done to
_ADDRESS_IN_USE: Final = "Bind on TCP/IP port: Address already in use"  # of a server that is handed no sockets
_LEFT_OUT: Final = TOOL_FILES | {"snaphold.incarnation"}  # of what is restored
_REMOVED: Final = ".removed."


@dataclass(frozen=True, kw_only=True)
class Staging:
    """Where the files of a restore go: an empty directory of the instance's own system user (None: ourselves)."""

    directory: Path
    uid: int | None
    gid: int | None
    memory_bytes: int  # what preparing them may use: the buffer pool that the server will have


class Servers:
    """All instances of one state directory. Thread-safe; one process a state directory at a time.

    Raises:
        SetupError: there is no fitting MariaDB, or the servers' system users cannot reach the state directory.
    """

    def __init__(self, settings: Settings) -> None:
        if settings.state_dir is None:
            raise SetupError("the setting state_dir is missing")
        self._settings = settings
        self._state_dir = settings.state_dir.resolve()
        self._instances = self._state_dir / "instances"
        self.own_system_users: Final = os.geteuid() == 0
        installation = find_installation(settings.engine_dir)
        self._ensure_traversable()
        if self.own_system_users:
            installation = reachable_installation(installation, self._state_dir)
        self.installation: Final[Installation] = installation
        self.keys: Final = KeyManagement.found(installation, settings.encryption_key_file)
        self._locks: dict[str, threading.RLock] = defaultdict(threading.RLock)
        self._placing = threading.Lock()  # system users and addresses are given out one after the other
        self._known: dict[str, Process] = {}  # where a server was seen last

    # What there is.

    @property
    def datastores(self) -> list[Datastore]:
        """What this host can really run."""
        return [
            Datastore(type="mariadb", version=self.installation.series, full_version=self.installation.version),
        ]

    @property
    def networks(self) -> list[str]:
        """The networks of which each instance gets an address."""
        return self._settings.instance_networks

    @property
    def port(self) -> int:
        """The port of every instance."""
        return self._settings.instance_port

    def taken_addresses(self) -> list[str]:
        """The addresses that no new instance can get: those of instances, and those that somebody else listens on."""
        own = {record.address for _, record in self._records() if record is not None and record.address is not None}
        return sorted(own | listening_addresses(self._settings.instance_port))

    def ids(self) -> list[str]:
        """The instances that are built, whether their servers run or not."""
        return sorted(name for name, record in self._records() if record is not None and record.built)

    def running(self, instance_id: str) -> bool:
        """Whether there is a server process; cheap. It may still be starting: ``state`` asks it a question."""
        directory = self._directory(instance_id)
        record = directory.read()
        return record is not None and self._process(directory, record) is not None

    def account(self, instance_id: str) -> str:
        """Whose instance it is; empty when there is no such instance."""
        try:
            record = self._directory(instance_id).read()
        except NotFound:
            return ""
        return "" if record is None else record.account

    def state(self, instance_id: str) -> InstanceState:
        """How an instance is now. ``running`` means that it answered a query; ``used_bytes``: disk.used_bytes.

        The incarnation is left out while something longer is done to the instance, and where the disk refuses.
        """
        directory = self._directory(instance_id)
        record = directory.read()
        if record is None:
            return InstanceState(id=instance_id, running=False, fault="this host has no such instance")
        used_bytes = disk.used_bytes(directory.data) if directory.data.is_dir() else None
        if self._process(directory, record) is None:
            fault = f"its server does not run: {in_words(directory.last_words() or '')}"
            return InstanceState(id=instance_id, running=False, used_bytes=used_bytes, fault=fault)
        with self._held(instance_id if record.built else None) as held:
            # Asked under the lock: a position that was asked for before somebody else's is below what they have kept.
            try:
                current, durable = self._lsns(directory, timeout_s=2)
            except SnapholdError as error:
                return InstanceState(id=instance_id, running=False, used_bytes=used_bytes, fault=reason_of(error))
            incarnation = None
            if held:
                with contextlib.suppress(OSError):
                    incarnation = directory.incarnation(record, lsn=current)
                    directory.saw(incarnation, durable)
        return InstanceState(
            id=instance_id, running=True, used_bytes=used_bytes, incarnation=incarnation, max_lsn=durable
        )

    def incarnation(self, instance_id: str, *, max_lsn: int | None = None, ended: str | None = None) -> str:
        """The id of this life of the instance's data directory, as its running server's LSN tells it (directory.py).

        ``max_lsn``, ``ended``: the highest LSN that the record was told, and the life that it knows to be over. Raises
        ``NotFound``, ``Unavailable`` and ``Permanent``.
        """
        with self._locks[instance_id], disk.disk_faults("reading the incarnation"):
            directory, record = self._built(instance_id)
            current, durable = self._lsns(directory, timeout_s=self._settings.start_timeout_s)
            incarnation = directory.incarnation(record, lsn=current, max_lsn=max_lsn or 0, ended=ended)
            directory.saw(incarnation, durable)
            return incarnation

    def saw_lsn(self, instance_id: str, incarnation: str, lsn: int) -> None:
        """A backup of this life of the data holds changes up to this LSN. Raises ``NotFound`` and ``Permanent``."""
        with self._locks[instance_id], disk.disk_faults("keeping the LSN"):
            self._built(instance_id)[0].saw(incarnation, lsn)

    def result(self, instance_id: str) -> InstanceResult:
        """Where a built instance is reached. Raises ``NotFound``."""
        directory, record = self._built(instance_id)
        return self._result(directory, record)

    # How an instance comes to be.

    def create(self, spec: InstanceSpec, attempt: int) -> InstanceResult:
        """Build a new instance: an empty server with the databases and users asked for, answering queries.

        Whatever fails, nothing of it is left. An attempt that had built it already gets the same answer again; what an
        earlier attempt left half-made is made from the beginning.

        Raises:
            Superseded: a later attempt has been here.
            Permanent: the server does not start, the disk is full, or no address or system user is free.
            Refused: a child of it, when the server refuses a database or a user.
        """
        with self._locks[spec.id], self._all_or_nothing(spec.id, attempt):
            if (done := self._built_before(spec, attempt)) is not None:
                return done
            directory, record = self._begin(spec, attempt, "create")
            disk.copy_data(template_directory(self._state_dir, self.installation), directory.data, record.owner)
            disk.sync_filesystem(directory.data)  # the server syncs what it writes, but not what it only reads
            return self._finish(directory, record, spec)

    def staging(self, spec: InstanceSpec, attempt: int, *, kind: Literal["restore", "proof"] = "restore") -> Staging:
        """Begin a restore: an empty directory to extract and prepare the backup in, as the user that it names.

        ``proof``: only ``start_scratch_server`` will start it. Whatever an earlier attempt left is removed.
        Raises ``Superseded`` and ``Permanent`` as ``create`` does.
        """
        with self._locks[spec.id], self._all_or_nothing(spec.id, attempt):
            directory, record = self._begin(spec, attempt, kind)
            path = directory.staging(attempt)
            disk.make_directory(path, owner=record.owner)
            return Staging(directory=path, uid=record.uid, gid=record.uid, memory_bytes=_buffer_pool_bytes(record))

    def finish_restore(self, spec: InstanceSpec, attempt: int) -> InstanceResult:
        """Make the prepared files of ``staging`` the instance's data, and start its server on them.

        The order is the promise: files are checked and synced, renamed into place, and before the first client is let
        in the internal accounts are made anew. Users, passwords, grants and data are what the backup says; the
        databases and users of ``spec`` are added where they are missing. Raises as ``create`` does.
        """
        with self._locks[spec.id], self._all_or_nothing(spec.id, attempt):
            if (done := self._built_before(spec, attempt)) is not None:
                return done
            directory, record = self._staged(spec, attempt)
            return self._finish(directory, record, spec)

    def start_scratch_server(self, spec: InstanceSpec, attempt: int) -> Administer:
        """Start a server without network on the prepared files of ``staging``, to be thrown away; asks it statements.

        Only we can reach it, by its socket. It is no instance: ``discard_attempt`` ends it and removes everything, and
        ``clear_leftovers`` does where the agent was killed. Raises as ``create`` does.
        """
        with self._locks[spec.id], self._all_or_nothing(spec.id, attempt):
            directory, record = self._staged(spec, attempt)
            self._start(directory, record)
            return self._administration(directory)

    def _staged(self, spec: InstanceSpec, attempt: int) -> tuple[InstanceDirectory, Record]:
        """Check the staging directory of an attempt, and make it the data directory, durably unless it is a proof's."""
        directory = self._directory(spec.id)
        record = directory.read()
        if record is None or record.attempt != attempt:
            raise Superseded(f"attempt {attempt} at restoring instance {spec.id} has nothing here")
        staging = directory.staging(attempt)
        if staging.is_dir():  # else a kill came between the rename and here
            for path in (staging / name for name in _LEFT_OUT):
                with contextlib.suppress(FileNotFoundError):
                    if stat.S_ISREG(path.lstat().st_mode):  # a database may have the name of another release's file
                        path.unlink()
            disk.refuse_foreign_files(staging, record.owner)
            if record.kind != "proof":
                disk.sync_filesystem(staging)
            staging.rename(directory.data)
            disk.sync_directory(directory.path)
        return directory, record

    def discard_attempt(self, instance_id: str, attempt: int) -> None:
        """Remove what an attempt (or an earlier one) at creating or restoring left; nothing that is built."""
        with self._locks[instance_id], disk.disk_faults("removing an attempt"):
            record = self._directory(instance_id).read()
            if record is not None and not record.built and record.attempt <= attempt:
                self._remove(instance_id)

    def clear_leftovers(self) -> None:
        """Remove what killed processes left: attempts that were never finished, directories on their way out.

        For the start of an agent, before it works on anything.
        """
        with disk.disk_faults("clearing leftovers away"):
            for path in self._instances.glob(f"{_REMOVED}*"):
                shutil.rmtree(path)
            for name, record in self._records():
                if record is None and self._directory(name).data.is_dir():
                    continue  # somebody's data, whatever has become of its record
                if record is None or not record.built:
                    with self._locks[name]:
                        self._remove(name)
                else:
                    for path in self._directory(name).path.glob(".tmp.*"):
                        path.unlink()

    # How it lives.

    def start(self, instance_id: str) -> None:
        """See to it that the server runs and answers; nothing is done where it does.

        Raises:
            NotFound: there is no such instance here.
            Permanent: it does not start, or does not answer in time (it is left alone: it may be recovering).
        """
        with self._locks[instance_id]:
            self._start(*self._built(instance_id))

    def stop(self, instance_id: str, *, patience_s: float = STOP_TIMEOUT_S) -> None:
        """End the server, by force after ``patience_s``; nothing is done where none runs. Raises ``NotFound``."""
        with self._locks[instance_id]:
            self._stop(*self._built(instance_id), patience_s=patience_s)

    def restart(self, instance_id: str) -> None:
        """End the server and start it again. Raises as ``start`` does."""
        with self._locks[instance_id]:
            self.stop(instance_id)
            self.start(instance_id)

    def note_memory(self, instance_id: str, ram_mb: int) -> None:
        """Have the next start give the server this much memory. Raises ``NotFound``, ``Permanent``."""
        with self._locks[instance_id], disk.disk_faults("noting the server's memory"):
            directory, record = self._built(instance_id)
            if record.ram_mb != ram_mb:
                directory.write(record.model_copy(update={"ram_mb": ram_mb}))

    def delete(self, instance_id: str) -> None:
        """End the server and remove all of the instance; one that is gone is no failure. Raises ``Permanent``."""
        with self._locks[instance_id], disk.disk_faults("removing an instance"):
            self._remove(instance_id)

    # What it is asked.

    def access(self, instance_id: str) -> ServerAccess:
        """How an engine's tools reach the server, with an empty scratch directory. Raises ``NotFound``."""
        with self._locks[instance_id], disk.disk_faults("preparing the backup tool's directory"):
            directory, record = self._built(instance_id)
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
                administer=self._administration(directory),
                administer_as_tool=self._administration(directory, directory.backup_file),
                checkpoint=partial(self._checkpoint, directory),
            )

    def ask(
        self, instance_id: str, kind: HostCallKind, payload: Mapping[str, Any], *, deadline_s: float = 15
    ) -> dict[str, Any]:
        """Answer a question of the agent protocol about what is in the server.

        Raises:
            NotFound: there is no such instance, database or user.
            BadRequest: a name is taken or does not fit.
            Unprocessable: a client's lock was in the way for longer than ``deadline_s``.
            Unavailable: the server does not answer.
        """
        directory, _ = self._built(instance_id)
        with self._administer(directory, timeout_s=deadline_s, most_bytes=contents.MOST_BYTES) as asked:
            return contents.HOST_CALLS[kind](asked, payload)

    # Building.

    def _built_before(self, spec: InstanceSpec, attempt: int) -> InstanceResult | None:
        directory = self._directory(spec.id)
        record = directory.read()
        if record is None or not record.built:
            return None
        if record.attempt > attempt:
            raise Superseded(f"a later attempt has built instance {spec.id}")
        self._start(directory, record)
        return self._result(directory, record)

    def _begin(
        self, spec: InstanceSpec, attempt: int, kind: Literal["create", "restore", "proof"]
    ) -> tuple[InstanceDirectory, Record]:
        """The directory of an attempt, with nothing in it of an earlier one."""
        if spec.datastore != "mariadb" or spec.version != self.installation.series:
            raise Permanent(f"this host runs mariadb {self.installation.series}, not {spec.datastore} {spec.version}")
        directory = self._directory(spec.id)
        earlier = directory.read()
        if earlier is not None and (earlier.attempt > attempt or (earlier.built and earlier.attempt == attempt)):
            raise Superseded(f"attempt {attempt} at building instance {spec.id} is over")
        self._remove(spec.id)
        with self._placing:
            uid = None
            if self.own_system_users:
                taken = {other.uid for _, other in self._records() if other is not None and other.uid is not None}
                uid = free_system_user(spec.id, self._settings.first_instance_uid, taken)
            record = Record(
                id=spec.id,
                account=spec.account,
                datastore=spec.datastore,
                version=self.installation.version,
                ram_mb=spec.ram_mb,
                attempt=attempt,
                kind=kind,
                uid=uid,
                address=None,
                port=self._settings.instance_port,
                built=False,
            )
            directory.make(record)
        return directory, record

    def _finish(self, directory: InstanceDirectory, record: Record, spec: InstanceSpec) -> InstanceResult:
        directory.incarnation(record)
        record = self._start_somewhere(directory, record, spec.address)
        with self._administer(directory, timeout_s=self._settings.start_timeout_s) as asked:
            contents.add_missing(asked, spec.databases, spec.users)
        record = record.model_copy(update={"built": True})
        directory.write(record)
        disk.sync_directory(self._instances)
        return self._result(directory, record)

    def _start_somewhere(self, directory: InstanceDirectory, record: Record, wanted: str | None) -> Record:
        """Start the server on the address that was chosen for it, or where somebody has that, on the next free one."""
        for _ in range(64):
            with self._placing:
                record = record.model_copy(update={"address": self._free_address(record, wanted)})
                directory.write(record)
            with contextlib.suppress(AddressTaken):
                self._start(directory, record)
                return record
        raise Permanent("no address stays free for long enough to start a server on it")

    def _free_address(self, record: Record, wanted: str | None) -> str:
        taken = {other.address for _, other in self._records() if other is not None and other.address is not None}
        settings = self._settings
        free = free_addresses(record.id, settings.instance_networks, record.port, taken, first=wanted)
        address = next(free, None)
        if address is None:
            networks = ", ".join(settings.instance_networks)
            raise Permanent("no address of its host is free", detail=f"of {networks} on port {record.port}")
        return address

    @contextmanager
    def _all_or_nothing(self, instance_id: str, attempt: int) -> Iterator[None]:
        """Whatever goes wrong while an instance is being built: nothing of the attempt stays."""
        try:
            with disk.disk_faults("building the instance"):
                yield
        except Superseded:
            raise
        except BaseException as error:
            try:
                self.discard_attempt(instance_id, attempt)
            except SnapholdError as trouble:
                error.add_note(f"and it could not be removed: {trouble}")
            raise

    def _result(self, directory: InstanceDirectory, record: Record) -> InstanceResult:
        return InstanceResult(
            address=record.address or "",
            port=record.port,
            used_bytes=disk.used_bytes(directory.data),
            full_version=record.version,
        )

    # Running.

    def _start(self, directory: InstanceDirectory, record: Record) -> None:
        process = self._process(directory, record)
        since, spawned = 0, None
        if process is None:
            with disk.disk_faults("starting the server"):
                since = self._error_log_size(directory)
                directory.make(record)  # a reboot or a hand may have taken something away
                self._lay_keys(directory, record)
                accounts.write_internal_accounts(
                    directory.admin_file,
                    directory.backup_file,
                    directory.super_file,
                    directory.socket,
                    record.owner,
                )
                statements = accounts.init_sql(directory.admin_file, directory.backup_file, directory.super_file)
                disk.write_atomically(directory.init_sql, statements, reader=record.owner, sync=False)
                with self._listening(directory, record) as sockets:
                    spawned = spawn_detached(
                        self._command_line(directory, record),
                        sandbox=self._sandbox(directory, record),
                        environment=self.installation.environment,
                        directory=directory.data,
                        owner=record.owner,
                        output=directory.start_log,
                        listening=sockets,
                    )
                self._known[record.id] = spawned.process
        self._wait_until_it_answers(directory, record, since, spawned)
        directory.init_sql.unlink(missing_ok=True)

    def _listening(
        self, directory: InstanceDirectory, record: Record
    ) -> AbstractContextManager[Sequence[socket.socket]]:
        """The sockets that the server is handed; none where it has no network, or opens its own."""
        if record.kind == "proof" or record.address is None or not self.installation.takes_sockets:
            return contextlib.nullcontext(())
        return listening(record.address, record.port, directory.socket, record.owner)

    def _lay_keys(self, directory: InstanceDirectory, record: Record) -> None:
        """Put plugin and keys where the server, and the backup tool in its name, read them and cannot write."""
        library = directory.plugins / f"{KEY_PLUGIN}.so"
        if self.keys is None:
            for path in (directory.keys, library):
                path.unlink(missing_ok=True)
            return
        for path, data in ((directory.keys, self.keys.keys), (library, self.keys.library.read_bytes())):
            disk.write_atomically(path, data, reader=record.owner, sync=False)

    def _wait_until_it_answers(
        self, directory: InstanceDirectory, record: Record, log_since: int, spawned: Spawned | None
    ) -> None:
        deadline = time.monotonic() + self._settings.start_timeout_s
        while True:
            process = self._process(directory, record)
            if process is None:
                log = disk.read_untrusted(directory.error_log, ERROR_LOG_LIMIT) or b""
                said = log[log_since:].decode(errors="replace")
                if _ADDRESS_IN_USE in said:
                    raise AddressTaken(f"somebody else listens on {record.address} port {record.port}")
                words = directory.last_words() or (said.strip().splitlines() or ["it says nothing"])[-1][:500]
                end = "" if spawned is None else f" ({spawned.verdict()})"
                raise Permanent(f"the database server does not start: {in_words(said)}{end}", detail=words)
            try:
                with self._administer(directory, timeout_s=2) as session:
                    session.run("SELECT 1")
                    return
            except Denied as error:  # it has run its init file before it let anybody in
                raise Permanent(
                    "the database server does not know the host's own account", detail=str(error)
                ) from error
            except Unavailable as error:
                if time.monotonic() > deadline:
                    seconds = self._settings.start_timeout_s
                    raise Permanent(f"the database server does not answer within {seconds:g} s: {error}") from error
            ends_within(process, 0.01)

    def _stop(self, directory: InstanceDirectory, record: Record, *, patience_s: float) -> None:
        while (process := self._process(directory, record)) is not None:
            end_process(process, patience_s=patience_s)

    def _remove(self, instance_id: str) -> None:
        """End what runs for an instance and remove its directory: renamed first, so that it is gone at once."""
        directory = self._directory(instance_id)
        if not directory.path.is_dir():
            return
        owner = self._owner(directory)
        while (process := find_server(directory.data, owner)) is not None:
            end_process(process, patience_s=0)
        if owner is not None:
            for process in processes_of(owner, directory.path):
                end_process(process, patience_s=0)
        removed = self._instances / f"{_REMOVED}{uuid.uuid4().hex}"
        directory.path.rename(removed)
        disk.sync_directory(self._instances)
        shutil.rmtree(removed)

    def _owner(self, directory: InstanceDirectory) -> disk.Owner | None:
        """Whose server it is, even when its record is lost."""
        record = directory.read()
        if record is not None:
            return record.owner
        if not self.own_system_users or not directory.data.is_dir():
            return None
        facts = directory.data.lstat()
        return disk.Owner(uid=facts.st_uid, gid=facts.st_gid)

    def _process(self, directory: InstanceDirectory, record: Record) -> Process | None:
        known = self._known.get(record.id)
        if known is None or not known.alive():
            known = find_server(directory.data, record.owner)
            if known is None:
                self._known.pop(record.id, None)
            else:
                self._known[record.id] = known
        return known

    def _error_log_size(self, directory: InstanceDirectory) -> int:
        try:
            size = directory.error_log.lstat().st_size
        except FileNotFoundError:
            return 0
        if size > ERROR_LOG_LIMIT // 2:
            directory.error_log.rename(directory.error_log.with_suffix(".old"))
            return 0
        return size

    def _command_line(self, directory: InstanceDirectory, record: Record) -> list[str | Path]:
        """Everything that the server is told: no option file is read."""
        pool = _buffer_pool_bytes(record)
        network = [f"--bind-address={record.address}", f"--port={record.port}"]
        return [
            self.installation.mariadbd,
            "--no-defaults",
            f"--datadir={directory.data}",
            f"--socket={accounts.relative_socket(directory.socket)}",  # from the data directory: always short enough
            f"--pid-file={directory.pid_file}",
            *(["--skip-networking"] if record.kind == "proof" else network),
            f"--log-error={directory.error_log}",
            f"--tmpdir={_seen_from_the_data(directory.temporary)}",
            f"--init-file={directory.init_sql}",
            f"--lc-messages-dir={self.installation.share}",
            f"--character-sets-dir={self.installation.share / 'charsets'}",
            "--character-set-server=utf8mb4",
            "--skip-name-resolve",
            f"--extra-max-connections={MOST_EXTRA}",
            f"--innodb-buffer-pool-size={pool}",
            f"--innodb-log-file-size={min(max(pool // 4, 64 * MEGABYTE), 1024 * MEGABYTE)}",
            "--innodb-flush-log-at-trx-commit=1",
            "--performance-schema=OFF",  # 30 MB of memory for each server
            # Walls: no file of the machine is read or written for a client, no code is loaded, none of a restored
            # directory's own runs before its internal accounts are new.
            f"--secure-file-priv={directory.files}",
            f"--plugin-dir={directory.plugins}",
            "--skip-symbolic-links",
            "--local-infile=0",
            "--event-scheduler=OFF",
            "--skip-slave-start",
            *self._encryption(directory),
        ]

    def _sandbox(self, directory: InstanceDirectory, record: Record) -> Sandbox:
        """What the server may reach: its own directories, and other servers to replicate from."""
        return Sandbox(
            reads=[
                *self.installation.directories,
                directory.init_sql,
                directory.keys,
                directory.files,
                directory.plugins,
            ],
            writes=[directory.data, *directory.of_the_server],
            connects_to=[] if record.kind == "proof" else self._settings.instance_outgoing_ports,
        )

    def _encryption(self, directory: InstanceDirectory) -> list[str]:
        """Where the host has keys, all data of InnoDB are encrypted with them."""
        if self.keys is None:
            return []
        return [
            f"--plugin-load-add={KEY_PLUGIN}",
            f"--{KEY_PLUGIN.replace('_', '-')}-filename={directory.keys}",
            "--innodb-encrypt-tables=ON",
            "--innodb-encrypt-log=ON",
            "--innodb-encryption-threads=1",
            "--encrypt-tmp-files=ON",
        ]

    # Where things are.

    @contextmanager
    def _held(self, instance_id: str | None) -> Iterator[bool]:
        """Exclude whatever else is done to an instance, unless it takes long; whether it is. None: do not."""
        held = instance_id is not None and self._locks[instance_id].acquire(timeout=LOOK_TIMEOUT_S)
        try:
            yield held
        finally:
            if held and instance_id is not None:
                self._locks[instance_id].release()

    def _directory(self, instance_id: str) -> InstanceDirectory:
        try:
            return InstanceDirectory(self._instances, instance_id)
        except ValueError as error:
            raise NotFound(f"Instance {instance_id} is not on this host.") from error

    def _built(self, instance_id: str) -> tuple[InstanceDirectory, Record]:
        directory = self._directory(instance_id)
        record = directory.read()
        if record is None or not record.built:
            raise NotFound(f"Instance {instance_id} is not on this host.")
        return directory, record

    def _records(self) -> list[tuple[str, Record | None]]:
        names = sorted(path.name for path in self._instances.iterdir() if IDENTIFIER.fullmatch(path.name))
        return [(name, InstanceDirectory(self._instances, name).read()) for name in names]

    def _administer(
        self, directory: InstanceDirectory, *, timeout_s: float, most_bytes: int = MOST_BYTES
    ) -> AbstractContextManager[Session]:
        return session(directory.admin_file, directory.socket, timeout_s=timeout_s, most_bytes=most_bytes)

    def _lsns(self, directory: InstanceDirectory, *, timeout_s: float) -> tuple[int, int]:
        """The server's LSN, and the one up to which its log is on the disk: the least that a crash leaves it."""
        with self._administer(directory, timeout_s=timeout_s) as asked:
            rows = asked.run(
                "SHOW GLOBAL STATUS WHERE Variable_name IN ('Innodb_lsn_current', 'Innodb_lsn_flushed')", most_rows=2
            )
        try:
            found = {str(name).lower(): int(value) for name, value in rows}
            return found["innodb_lsn_current"], found["innodb_lsn_flushed"]
        except (KeyError, TypeError, ValueError) as error:
            raise Unavailable("the database server does not tell its LSN") from error

    def _administration(self, directory: InstanceDirectory, account_file: Path | None = None) -> Administer:
        def administer(statement: str, timeout_s: float) -> list[tuple[Any, ...]]:
            with session(account_file or directory.admin_file, directory.socket, timeout_s=timeout_s) as asked:
                return asked.run(statement)

        return administer

    def _checkpoint(self, directory: InstanceDirectory, timeout_s: float) -> None:
        with session(directory.super_file, directory.socket, timeout_s=timeout_s) as asked:
            asked.run("SET GLOBAL innodb_log_checkpoint_now = ON")

    def _ensure_traversable(self) -> None:
        """The servers' system users must be able to pass through our directories, and through those above.

        Raises:
            SetupError: a directory above is closed to them, or ours cannot be made.
        """
        try:
            self._state_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
            self._instances.mkdir(mode=0o711, exist_ok=True)
            if not self.own_system_users:
                return
            for path in (self._state_dir, self._instances):
                path.chmod(stat.S_IMODE(path.stat().st_mode) | stat.S_IXOTH)
        except OSError as error:
            raise SetupError(f"the state directory {self._state_dir} cannot be used: {error.strerror}") from error
        closed = closed_ancestor(self._instances)
        if closed is not None:
            raise SetupError(
                f"{closed} is closed to the system users that the database servers run as: "
                f"put the state directory elsewhere, or allow passing with 'chmod o+x {closed}'"
            )


def _seen_from_the_data(path: Path) -> Path:
    """A directory beside the data directory, as the server that works there names it: without ``:``, in a list."""
    return Path("..", path.name)


def _buffer_pool_bytes(record: Record) -> int:
    """Half of the flavor's memory."""
    return record.ram_mb * MEGABYTE // 2
