"""MariaDB as an engine (engines/base.py): the backup tool, the server, and what the host asks a running server."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

from snaphold.engines.base import Administer
from snaphold.engines.files import ServerFiles
from snaphold.engines.mariadb import contents, tables
from snaphold.engines.mariadb.server import MariaDBServer
from snaphold.engines.mariadb.session import Session, session
from snaphold.engines.mariadb.tool import MariaDBTool
from snaphold.errors import Unavailable
from snaphold.formats.verification_record import Checksums
from snaphold.protocol import DatabaseSpec, Datastore, HostCallKind, UserSpec

_LSNS: Final = "SHOW GLOBAL STATUS WHERE Variable_name IN ('Innodb_lsn_current', 'Innodb_lsn_flushed')"


class MariaDB(MariaDBTool, MariaDBServer):
    """One installation of MariaDB, and the encryption keys of its host."""

    @property
    def datastore(self) -> Datastore:
        """See Engine.datastore."""
        installation = self.installation
        return Datastore(type="mariadb", version=installation.series, full_version=installation.version)

    @property
    def title(self) -> str:
        """See Engine.title."""
        return f"MariaDB {self.installation.version}"

    @property
    def private_directories(self) -> list[Path]:
        """See Engine.private_directories."""
        return [self.installation.root]

    def administer(self, files: ServerFiles, *, as_tool: bool = False) -> Administer:
        """Each statement gets a connection of its own; see Administration.administer."""
        account_file = files.backup_file if as_tool else files.admin_file

        def administer(statement: str, timeout_s: float) -> list[tuple[Any, ...]]:
            with session(account_file, files.socket, timeout_s=timeout_s) as opened:
                return opened.run(statement)

        return administer

    def checkpoint(self, files: ServerFiles, timeout_s: float) -> None:
        """Needs SUPER; see Administration.checkpoint."""
        with session(files.super_file, files.socket, timeout_s=timeout_s) as opened:
            opened.run("SET GLOBAL innodb_log_checkpoint_now = ON")

    def lsns(self, files: ServerFiles, timeout_s: float) -> tuple[int, int]:
        """InnoDB's current and flushed LSN; see Administration.lsns."""
        with session(files.admin_file, files.socket, timeout_s=timeout_s) as opened:
            rows = opened.run(_LSNS, most_rows=2)
        try:
            found = {str(name).lower(): int(value) for name, value in rows}
            return found["innodb_lsn_current"], found["innodb_lsn_flushed"]
        except (KeyError, TypeError, ValueError) as error:
            raise Unavailable("the database server does not report its LSN") from error

    def call(
        self, files: ServerFiles, kind: HostCallKind, payload: Mapping[str, Any], *, timeout_s: float
    ) -> dict[str, Any]:
        """See Administration.call."""

        def opened(seconds: float) -> AbstractContextManager[Session]:
            return session(files.admin_file, files.socket, timeout_s=seconds, most_bytes=contents.MOST_BYTES)

        return contents.answered(opened, kind, payload, series=self.installation.series, timeout_s=timeout_s)

    def add_missing(
        self, files: ServerFiles, databases: Sequence[DatabaseSpec], users: Sequence[UserSpec], *, timeout_s: float
    ) -> None:
        """See Administration.add_missing."""
        with session(files.admin_file, files.socket, timeout_s=timeout_s) as opened:
            contents.add_missing(opened, databases, users, series=self.installation.series)

    def check_tables(
        self,
        administer: Administer,
        check: Callable[[], None],
        *,
        known: Collection[str] = (),
        source: Administer | None = None,
    ) -> Checksums:
        """CHECK TABLE and CHECKSUM TABLE; see Administration.check_tables."""
        return tables.check_tables(administer, check, known=known, source=source)

    def compare_checksums(self, backup_id: str, first: Checksums | None, found: Checksums) -> Checksums:
        """See Administration.compare_checksums."""
        return tables.compare_checksums(backup_id, first, found)
