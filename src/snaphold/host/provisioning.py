"""Creates instances on this host: empty ones, restored ones, and scratch servers that verify a backup.

A process may be killed at any instruction here: the same call, a later attempt or ``clear_leftovers`` ends in the same
state.
"""

import contextlib
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from snaphold import disk
from snaphold.config import Settings
from snaphold.engines.base import Administer, Engines
from snaphold.errors import Permanent, SnapholdError, Superseded
from snaphold.host.directory import INCARNATION, InstanceDirectory, Record
from snaphold.host.lifecycle import REMOVED, Lifecycle
from snaphold.host.listening import AddressTaken
from snaphold.host.placement import free_addresses, free_system_user
from snaphold.host.records import Records
from snaphold.model import MIB
from snaphold.protocol import InstanceResult, InstanceSpec

_ADDRESSES_TRIED: Final = 64


@dataclass(frozen=True, kw_only=True)
class Staging:
    """Where a restore puts its files: an empty directory of the instance's system user (None: this process's user)."""

    directory: Path
    uid: int | None
    gid: int | None
    memory_bytes: int  # that preparing the files may use: as much as the server will use for its cache


class Provisioning:
    """Builds instances in attempts. An instance is complete once its record says so (``Record.built``)."""

    def __init__(
        self, records: Records, lifecycle: Lifecycle, engines: Engines, settings: Settings, *, own_system_users: bool
    ) -> None:
        self._records = records
        self._lifecycle = lifecycle
        self._engines = engines
        self._settings = settings
        self._own_system_users = own_system_users

    def create(self, spec: InstanceSpec, attempt: int) -> InstanceResult:
        """Build an empty server with the databases and users of ``spec``, and return once it answers queries.

        A failure leaves nothing behind. The same attempt may ask again for an instance that it has built; what an
        earlier attempt left incomplete is built anew.

        Raises:
            Superseded: a later attempt has been here.
            Permanent: the server does not start, the disk is full, or no address or system user is free.
            Refused: a child of it, when the server refuses a database or a user.
        """
        with self._records.lock(spec.id), self._all_or_nothing(spec.id, attempt):
            if (done := self._built_before(spec, attempt)) is not None:
                return done
            directory, record = self._begin(spec, attempt, "create")
            template = self._lifecycle.engine(record).template(self._records.path.parent)
            disk.copy_data(template, directory.data, record.owner)
            disk.sync_filesystem(directory.data)  # the server does not sync the files that it only reads
            return self._finish(directory, record, spec)

    def staging(self, spec: InstanceSpec, attempt: int, *, kind: Literal["restore", "proof"] = "restore") -> Staging:
        """Begin a restore: create the empty directory to extract and prepare the backup in.

        ``proof``: only ``start_scratch_server`` may start it. What an earlier attempt left is removed. Raises
        ``Superseded`` and ``Permanent`` as ``create`` does.
        """
        with self._records.lock(spec.id), self._all_or_nothing(spec.id, attempt):
            directory, record = self._begin(spec, attempt, kind)
            path = directory.staging(attempt)
            disk.make_directory(path, owner=record.owner)
            memory_bytes = self._lifecycle.engine(record).cache_bytes(record.ram_mb * MIB)
            return Staging(directory=path, uid=record.uid, gid=record.uid, memory_bytes=memory_bytes)

    def finish_restore(self, spec: InstanceSpec, attempt: int) -> InstanceResult:
        """Make the prepared files of ``staging`` the data of the instance, and start its server.

        The files are checked and synced, then renamed into place, and the internal accounts are renewed before the
        first client can connect. Users, passwords, grants and data are those of the backup; databases and users of
        ``spec`` are added if they do not exist. Raises as ``create`` does.
        """
        with self._records.lock(spec.id), self._all_or_nothing(spec.id, attempt):
            if (done := self._built_before(spec, attempt)) is not None:
                return done
            directory, record = self._staged(spec, attempt)
            return self._finish(directory, record, spec)

    def start_scratch_server(self, spec: InstanceSpec, attempt: int) -> Administer:
        """Start a server without network on the prepared files of ``staging``; returns a function that queries it.

        Only this host can reach it, through its socket. It never becomes an instance: ``discard_attempt`` stops and
        removes it, or ``clear_leftovers`` after a crash. Raises as ``create`` does.
        """
        with self._records.lock(spec.id), self._all_or_nothing(spec.id, attempt):
            directory, record = self._staged(spec, attempt)
            self._lifecycle.start_server(directory, record)
            return self._lifecycle.engine(record).administer(directory)

    def discard_attempt(self, instance_id: str, attempt: int) -> None:
        """Remove what this attempt, or an earlier one, left incomplete. A complete instance stays."""
        with self._records.lock(instance_id), disk.disk_faults("removing an attempt"):
            record = self._records.directory(instance_id).read()
            if record is not None and not record.built and record.attempt <= attempt:
                self._lifecycle.remove(instance_id)

    def clear_leftovers(self) -> None:
        """Remove what killed processes left: incomplete instances, and directories that were being deleted.

        For the start of an agent, before it does any work.
        """
        with disk.disk_faults("clearing leftovers away"):
            for path in self._records.path.glob(f"{REMOVED}*"):
                shutil.rmtree(path)
            for name, record in self._records.all():
                if record is None and self._records.directory(name).data.is_dir():
                    continue  # a tenant's data, although its record is lost
                if record is None or not record.built:
                    with self._records.lock(name):
                        self._lifecycle.remove(name)
                else:
                    for path in self._records.directory(name).path.glob(".tmp.*"):
                        path.unlink()

    def result(self, instance_id: str) -> InstanceResult:
        """Return the address, size and version of a complete instance. Raises ``NotFound``."""
        return _result(*self._records.built(instance_id))

    def _built_before(self, spec: InstanceSpec, attempt: int) -> InstanceResult | None:
        directory = self._records.directory(spec.id)
        record = directory.read()
        if record is None or not record.built:
            return None
        if record.attempt > attempt:
            raise Superseded(f"a later attempt has built instance {spec.id}")
        self._lifecycle.start_server(directory, record)
        return _result(directory, record)

    def _begin(
        self, spec: InstanceSpec, attempt: int, kind: Literal["create", "restore", "proof"]
    ) -> tuple[InstanceDirectory, Record]:
        """Create the directory of an attempt, without anything of an earlier one."""
        engine = self._engines.of(spec.datastore, spec.version)
        directory = self._records.directory(spec.id)
        earlier = directory.read()
        if earlier is not None and (earlier.attempt > attempt or (earlier.built and earlier.attempt == attempt)):
            raise Superseded(f"attempt {attempt} at building instance {spec.id} is over")
        self._lifecycle.remove(spec.id)
        with self._records.placing:
            uid = None
            if self._own_system_users:
                taken = {other.uid for _, other in self._records.all() if other is not None and other.uid is not None}
                uid = free_system_user(spec.id, self._settings.first_instance_uid, taken)
            record = Record(
                id=spec.id,
                account=spec.account,
                datastore=spec.datastore,
                version=engine.datastore.full_version,
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

    def _staged(self, spec: InstanceSpec, attempt: int) -> tuple[InstanceDirectory, Record]:
        """Check the staging directory of an attempt, and rename it to the data directory (durably, unless scratch)."""
        directory = self._records.directory(spec.id)
        record = directory.read()
        if record is None or record.attempt != attempt:
            raise Superseded(f"attempt {attempt} at restoring instance {spec.id} has nothing here")
        staging = directory.staging(attempt)
        if staging.is_dir():  # otherwise it was renamed before a crash
            for name in self._lifecycle.engine(record).tool_files | {INCARNATION}:
                path = staging / name
                with contextlib.suppress(FileNotFoundError):
                    if stat.S_ISREG(path.lstat().st_mode):  # a directory is a database with the name of such a file
                        path.unlink()
            disk.refuse_foreign_files(staging, record.owner)
            if record.kind != "proof":
                disk.sync_filesystem(staging)
            staging.rename(directory.data)
            disk.sync_directory(directory.path)
        return directory, record

    def _finish(self, directory: InstanceDirectory, record: Record, spec: InstanceSpec) -> InstanceResult:
        engine = self._lifecycle.engine(record)
        directory.incarnation(record, identity_file=engine.identity_file)
        record = self._start_on_free_address(directory, record, spec.address)
        engine.add_missing(directory, spec.databases, spec.users, timeout_s=self._settings.start_timeout_s)
        record = record.model_copy(update={"built": True})
        directory.write(record)
        disk.sync_directory(self._records.path)
        return _result(directory, record)

    def _start_on_free_address(self, directory: InstanceDirectory, record: Record, wanted: str | None) -> Record:
        """Start the server on the address that the control plane chose, or on the next free one if that is taken."""
        for _ in range(_ADDRESSES_TRIED):
            with self._records.placing:
                record = record.model_copy(update={"address": self._free_address(record, wanted)})
                directory.write(record)
            with contextlib.suppress(AddressTaken):
                self._lifecycle.start_server(directory, record)
                return record
        raise Permanent("no address stays free for long enough to start a server on it")

    def _free_address(self, record: Record, wanted: str | None) -> str:
        taken = {other.address for _, other in self._records.all() if other is not None and other.address is not None}
        networks = self._settings.instance_networks
        address = next(free_addresses(record.id, networks, record.port, taken, first=wanted), None)
        if address is None:
            detail = f"of {', '.join(networks)} on port {record.port}"
            raise Permanent("no address of its host is free", detail=detail)
        return address

    @contextmanager
    def _all_or_nothing(self, instance_id: str, attempt: int) -> Iterator[None]:
        """When building an instance fails, remove everything of the attempt."""
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


def _result(directory: InstanceDirectory, record: Record) -> InstanceResult:
    return InstanceResult(
        address=record.address or "",
        port=record.port,
        used_bytes=disk.used_bytes(directory.data),
        full_version=record.version,
    )
