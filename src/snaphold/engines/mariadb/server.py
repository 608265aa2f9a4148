"""MariaDB's server: its command line, the files that a start needs, and what its messages mean."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from snaphold.disk import read_untrusted, write_atomically
from snaphold.engines.base import ServerCommand, ServerConfig
from snaphold.engines.files import ServerFiles
from snaphold.engines.mariadb import accounts
from snaphold.engines.mariadb.installation import Installation
from snaphold.engines.mariadb.keys import KeyManagement
from snaphold.engines.mariadb.options import KEY_PLUGIN
from snaphold.engines.mariadb.session import session
from snaphold.engines.mariadb.template import template_directory
from snaphold.engines.mariadb.words import in_words
from snaphold.errors import Refused, Unavailable
from snaphold.formats.xbstream import TOOL_FILES
from snaphold.model import MIB
from snaphold.sandbox import Sandbox

INTERNAL_CONNECTIONS: Final = 16  # reserved for the host and its backup tool
_PROGRAMS: Final = {b"mariadbd", b"mysqld"}
_ADDRESS_IN_USE: Final = "Bind on TCP/IP port: Address already in use"  # of a server that opens its own sockets
_LAST_ERRORS: Final = 4  # lines of the log
_LOG_TAIL: Final = 16 << 10  # bytes
_LONGEST: Final = 500  # characters


class MariaDBServer:
    """MariaDB's half of ``ServerProgram`` (engines/base.py), with the programs of one installation."""

    identity_file = "ibdata1"  # the system tablespace
    tool_files = TOOL_FILES

    def __init__(self, installation: Installation, keys: KeyManagement | None = None) -> None:
        self.installation = installation
        self._keys = keys

    @property
    def socket_names(self) -> str | None:
        """MariaDB's extra port can be a socket of any kind when it is inherited; see ServerProgram.socket_names."""
        return "clients:extra" if self.installation.takes_sockets else None

    @staticmethod
    def serves(argv: Sequence[bytes], data: Path) -> bool:
        """The backup tool gets the same ``--datadir``, so the program's name counts as well."""
        program, *arguments = argv or [b""]
        return program.rsplit(b"/", 1)[-1] in _PROGRAMS and b"--datadir=" + bytes(data) in arguments

    def template(self, state_dir: Path) -> Path:
        """``DIR/template/<version>``; see ServerProgram.template."""
        return template_directory(state_dir, self.installation)

    def cache_bytes(self, memory_bytes: int) -> int:
        """The buffer pool: half of the memory."""
        return memory_bytes // 2

    def write_start_files(self, config: ServerConfig) -> None:
        """The key plugin with its keys, and the internal accounts with the init file that creates them."""
        files = config.files
        self._write_keys(config)
        accounts.write_internal_accounts(
            files.admin_file, files.backup_file, files.super_file, files.socket, config.owner
        )
        statements = accounts.init_sql(
            files.admin_file, files.backup_file, files.super_file, series=self.installation.series
        )
        write_atomically(files.init_sql, statements, reader=config.owner, sync=False)

    def _write_keys(self, config: ServerConfig) -> None:
        """Write plugin and keys where the server, and the backup tool in its name, can read but not change them."""
        library = config.files.plugins / f"{KEY_PLUGIN}.so"
        if self._keys is None:
            for path in (config.files.keys, library):
                path.unlink(missing_ok=True)
            return
        for path, data in ((config.files.keys, self._keys.keys), (library, self._keys.library.read_bytes())):
            write_atomically(path, data, reader=config.owner, sync=False)

    def remove_start_files(self, files: ServerFiles) -> None:
        """The init file: it holds the hashes of the internal accounts."""
        files.init_sql.unlink(missing_ok=True)

    def command(self, config: ServerConfig) -> ServerCommand:
        """The command line has every option: the server reads no option file."""
        files = config.files
        pool = self.cache_bytes(config.memory_bytes)
        share = self.installation.share
        network = [f"--bind-address={config.address}", f"--port={config.port}"]
        return ServerCommand(
            argv=[
                self.installation.mariadbd,
                "--no-defaults",
                f"--datadir={files.data}",
                f"--socket={accounts.relative_socket(files.socket)}",  # relative to the data, so never too long
                f"--pid-file={files.pid_file}",
                *(["--skip-networking"] if config.address is None else network),
                f"--log-error={files.error_log}",
                f"--tmpdir={_relative_to_data(files.temporary)}",
                f"--init-file={files.init_sql}",
                f"--lc-messages-dir={share}",
                f"--character-sets-dir={share / 'charsets'}",
                "--character-set-server=utf8mb4",
                "--skip-name-resolve",
                f"--extra-max-connections={INTERNAL_CONNECTIONS}",
                f"--innodb-buffer-pool-size={pool}",
                f"--innodb-log-file-size={min(max(pool // 4, 64 * MIB), 1024 * MIB)}",
                "--innodb-flush-log-at-trx-commit=1",
                "--performance-schema=OFF",  # it takes 30 MB of memory in each server
                # The server reads and writes no file of the machine for a client, and loads no code. It runs no code of
                # a restored data directory before the internal accounts are new.
                f"--secure-file-priv={files.files}",
                f"--plugin-dir={files.plugins}",
                "--skip-symbolic-links",
                "--local-infile=0",
                "--event-scheduler=OFF",
                "--skip-slave-start",
                *self._encryption(files),
            ],
            environment=self.installation.environment,
            sandbox=Sandbox(
                reads=[*self.installation.directories, files.init_sql, files.keys, files.files, files.plugins],
                writes=[files.data, files.run, files.log, files.temporary],
                connects_to=[] if config.address is None else config.outgoing_ports,
            ),
        )

    def _encryption(self, files: ServerFiles) -> list[str]:
        """When the host has keys, InnoDB encrypts all data with them."""
        if self._keys is None:
            return []
        return [
            f"--plugin-load-add={KEY_PLUGIN}",
            f"--{KEY_PLUGIN.replace('_', '-')}-filename={files.keys}",
            "--innodb-encrypt-tables=ON",
            "--innodb-encrypt-log=ON",
            "--innodb-encryption-threads=1",
            "--encrypt-tmp-files=ON",
        ]

    def ping(self, files: ServerFiles, timeout_s: float) -> None:
        """See ServerProgram.ping. The server runs its init file before it accepts a connection."""
        try:
            with session(files.admin_file, files.socket, timeout_s=timeout_s) as opened:
                opened.run("SELECT 1")
        except Refused as error:
            raise Unavailable(str(error)) from error

    def address_taken(self, messages: str) -> bool:
        """See ServerProgram.address_taken."""
        return _ADDRESS_IN_USE in messages

    def last_errors(self, files: ServerFiles) -> str | None:
        """From the error log, or else from what the server wrote before it opened that."""
        for path in (files.error_log, files.start_log):
            text = (read_untrusted(path, _LOG_TAIL, tail=True) or b"").decode(errors="replace")
            lines = [line.split("[ERROR]", 1)[1].strip() for line in text.splitlines() if "[ERROR]" in line]
            lines = lines or (text.strip().splitlines()[-1:] if path == files.start_log else [])
            if lines:
                return "; ".join(dict.fromkeys(lines[-_LAST_ERRORS:]))[:_LONGEST]
        return None

    def explain(self, messages: str) -> str:
        """See ServerProgram.explain."""
        return in_words(messages)


def _relative_to_data(path: Path) -> Path:
    """A directory beside the data directory, relative to it: without ``:``, which separates the items of a list."""
    return Path("..", path.name)
