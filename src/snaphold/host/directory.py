"""The directory of one instance, ``DIR/instances/<id>``.

    instance.json     0600 host     the record below; a directory without it is a leftover
    admin.cnf         0600 host     credentials of the admin account, which this host uses to administer the server
    backup.cnf        0640 host     credentials of the backup tool's account
    super.cnf         0600 host     credentials of the account with SUPER; each start renews all three
    init.sql          0640 host     creates these accounts; exists only while the server starts
    keys              0640 host     the encryption keys, if the host has any
    start.log         0600 host     the server's output before it opens its own log
    backup.log        0600 host     the messages of the last run of the backup tool
    lsn.json          0600 host     the highest LSN seen in this incarnation; outside the data, which may be rolled back
    data/             0700 server   the data directory, with the file ``snaphold.incarnation``
    restore.<n>/      0700 server   the data of attempt n at a restore, until it is renamed to ``data``
    run/ log/ tmp/ scratch/  0700 server   socket, error log, temporary tables, target directory of the backup tool
    files/ plugins/   0750 host     secure_file_priv and plugin_dir: the server cannot write there; they are empty
                                    except for the plugin that reads ``keys``

``host`` is the user that this process runs as. ``server`` is the instance's own system user, whose group can read files
of mode 0640 and 0750; without root, everything belongs to ``host``. The directory itself has mode 0710 and belongs to
``host``: the server can reach its files but cannot replace any of the host's, and no other server can enter.
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
    """The record of an instance. ``built`` becomes true last: an instance without it is incomplete."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    account: str
    datastore: str
    version: str  # full version of the engine that built it: "10.11.19"
    ram_mb: int
    attempt: int
    kind: Literal["create", "restore", "proof"]  # proof: a scratch server, which is never built
    uid: int | None
    address: str | None
    port: int
    built: bool

    @property
    def owner(self) -> Owner | None:
        """The instance's system user; None when servers run as this process's user."""
        return None if self.uid is None else Owner(uid=self.uid, gid=self.uid)


class Incarnation(BaseModel):
    """The identity of the data in a data directory. Data with another inode or birth time is another incarnation."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    inode: int
    birth_ns: int | None


class Seen(BaseModel):
    """The highest LSN of an incarnation that was seen on disk."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    incarnation: str
    max_lsn: int


class InstanceDirectory(ServerFiles):
    """The files of one instance, and its record."""

    def __init__(self, instances: Path, instance_id: str) -> None:
        if not IDENTIFIER.fullmatch(instance_id):
            raise ValueError(f"not an instance id: {instance_id!r}")
        super().__init__(instances / instance_id)
        self._lsn_file: Final = self.path / "lsn.json"

    def staging(self, attempt: int) -> Path:
        """The directory that this attempt at a restore puts the data in."""
        return self.path / f"restore.{attempt}"

    def make(self, record: Record) -> None:
        """Write the record and create the directories. Existing ones get their owner and mode back."""
        self.path.mkdir(mode=0o700, exist_ok=True)
        self.write(record)
        for name in _SERVER_DIRECTORIES:
            make_directory(self.path / name, owner=record.owner)
        ours = None if record.owner is None else Owner(uid=0, gid=record.owner.gid)
        for path in (self.files, self.plugins):
            make_directory(path, owner=ours, mode=0o750 if ours else 0o500)
        make_directory(self.path, owner=ours, mode=0o710 if ours else 0o700)

    def read(self) -> Record | None:
        """Return the record; None when it is missing or cannot be parsed: then the directory is a leftover."""
        try:
            return Record.model_validate_json((self.path / "instance.json").read_bytes())
        except (OSError, ValidationError):
            return None

    def write(self, record: Record) -> None:
        """Write the record durably."""
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
        """Return the random id of the present incarnation; a new one when the data is not what the id was given to.

        Data that was copied, replaced or restored has another ``identity_file`` (inode, birth time), and an increment
        on a backup of the former data would silently be wrong. The same is true of data that was rolled back in place:
        its server's ``lsn`` is lower than one seen before, by this host or by the catalog (``max_lsn``). ``ended``: an
        incarnation that the catalog knows to be over. After a crash the id is the former one, or unnecessarily new.
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
        """Record the LSN if it is the highest of this incarnation. It is not synced, because the catalog has it too."""
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
