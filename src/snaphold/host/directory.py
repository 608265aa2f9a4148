"""What depends on the disk for one instance: ``DIR/instances/<id>``.

    instance.json     0600 ours     the record below; without it the directory is a leftover
    admin.cnf         0600 ours     the account by which this host looks after the server
    backup.cnf        0640 ours     the account of the backup tool
    super.cnf         0600 ours     the account for what needs SUPER; all three are new with each start
    init.sql          0640 ours     only while the server starts: makes these accounts anew
    keys              0640 ours     the encryption keys, where the host has any
    start.log         0600 ours     what the server said before it opened its own log
    backup.log        0600 ours     what the backup tool said last
    lsn.json          0600 ours     the highest LSN seen in this life of the data; kept out of what may be rolled back
    data/             0700 server   the data directory; in it ``snaphold.incarnation``
    restore.<n>/      0700 server   attempt n of a restore, until it becomes ``data``
    run/ log/ tmp/ scratch/  0700 server   socket, error log, temporary tables, the backup tool's target
    files/ plugins/   0750 ours     empty but for the plugin that reads ``keys``, and the server cannot write there:
                                    secure_file_priv and plugin_dir

``server`` is the instance's own system user, whose group reads 0640 and 0750 (with root; else everything is ours). The
directory itself is 0710 and ours, so that a server can reach what is its own, replace nothing of it, and no other
server gets in.
"""

import re
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from snaphold.disk import Owner, birth_ns, make_directory, read_untrusted, write_atomically
from snaphold.engines.files import ServerFiles

IDENTIFIER: Final = re.compile(r"[A-Za-z0-9-]{1,64}")
_SERVER_DIRECTORIES: Final = ("run", "log", "tmp", "scratch")
INCARNATION: Final = "snaphold.incarnation"  # in the data directory


class Record(BaseModel):
    """What this host knows of an instance. ``built`` is the last thing that becomes true."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    account: str
    datastore: str
    version: str  # the full one of the engine that built it
    ram_mb: int
    attempt: int
    kind: Literal["create", "restore", "proof"]  # a proof's is thrown away and never built
    uid: int | None
    address: str | None
    port: int
    built: bool

    @property
    def owner(self) -> Owner | None:
        """The instance's system user; None where servers run as ourselves."""
        return None if self.uid is None else Owner(uid=self.uid, gid=self.uid)


class Incarnation(BaseModel):
    """A life of a data directory. Another inode or birth of its system tablespace means another life."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    inode: int
    birth_ns: int | None


class Seen(BaseModel):
    """How far the redo log of a life of the data was seen to be on the disk."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    incarnation: str
    max_lsn: int


class InstanceDirectory(ServerFiles):
    """The files of one instance, and its record."""

    def __init__(self, instances: Path, instance_id: str) -> None:
        if not IDENTIFIER.fullmatch(instance_id):
            raise ValueError(f"no id of an instance: {instance_id!r}")
        super().__init__(instances / instance_id)
        self._lsn_file: Final = self.path / "lsn.json"

    def staging(self, attempt: int) -> Path:
        """Where this attempt at a restore puts the data."""
        return self.path / f"restore.{attempt}"

    def make(self, record: Record) -> None:
        """Lay the directories out and write the record; what is there already gets its owner and mode again."""
        self.path.mkdir(mode=0o700, exist_ok=True)
        self.write(record)
        for name in _SERVER_DIRECTORIES:
            make_directory(self.path / name, owner=record.owner)
        ours = None if record.owner is None else Owner(uid=0, gid=record.owner.gid)
        for path in (self.files, self.plugins):
            make_directory(path, owner=ours, mode=0o750 if ours else 0o500)
        make_directory(self.path, owner=ours, mode=0o710 if ours else 0o700)

    def read(self) -> Record | None:
        """The record; None when there is none that can be understood: the directory is a leftover then."""
        try:
            return Record.model_validate_json((self.path / "instance.json").read_bytes())
        except (OSError, ValidationError):
            return None

    def write(self, record: Record) -> None:
        """Keep the record, durably."""
        write_atomically(self.path / "instance.json", record.model_dump_json(indent=1).encode() + b"\n")

    def incarnation(
        self,
        record: Record,
        *,
        identity_file: str,
        lsn: int | None = None,
        max_lsn: int = 0,
        ended: str | None = None,
    ) -> str:
        """The random id of this life of the data directory; a new one when the files are not the ones it was given to.

        A data directory that was copied, replaced or restored has another system tablespace (inode, birth), and an
        increment on a backup of the old one would be wrong without a word. So has one that was rolled back in place:
        its server's ``lsn`` is lower than one seen before, here or by the record (``max_lsn``). ``ended``: a life that
        the record knows to be over. A crash leaves the old life, or a new one more than is needed.
        """
        path = self.data / INCARNATION
        tablespace = self.data / identity_file
        inode, born = tablespace.lstat().st_ino, birth_ns(tablespace)
        with suppress(ValidationError):
            known = Incarnation.model_validate_json(read_untrusted(path, 4096) or b"")
            seen = self._seen() or Seen(incarnation=known.id, max_lsn=0)
            rolled_back = seen.incarnation != known.id or (lsn is not None and lsn < max(max_lsn, seen.max_lsn))
            if (known.inode, known.birth_ns) == (inode, born) and known.id != ended and not rolled_back:
                return known.id
        new = Incarnation(id=str(uuid.uuid4()), inode=inode, birth_ns=born)
        write_atomically(path, new.model_dump_json().encode() + b"\n", owner=record.owner)
        self._keep(Seen(incarnation=new.id, max_lsn=0), sync=True)
        return new.id

    def saw(self, incarnation: str, lsn: int) -> None:
        """Keep the LSN where it is the highest seen in this life; not synced, for the record keeps it too."""
        seen = self._seen() or Seen(incarnation=incarnation, max_lsn=0)
        if seen.incarnation == incarnation and lsn > seen.max_lsn:
            self._keep(Seen(incarnation=incarnation, max_lsn=lsn), sync=False)

    def _seen(self) -> Seen | None:
        try:
            return Seen.model_validate_json(self._lsn_file.read_bytes())
        except (FileNotFoundError, ValidationError):  # a power failure may leave an empty one
            return None

    def _keep(self, seen: Seen, *, sync: bool) -> None:
        write_atomically(self._lsn_file, seen.model_dump_json().encode() + b"\n", sync=sync)
