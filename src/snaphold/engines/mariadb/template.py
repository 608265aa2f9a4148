"""The empty data directory that every new instance starts from. It is created once for each version."""

import fcntl
import os
import shutil
import subprocess
import uuid
from pathlib import Path
from typing import Final

from snaphold.disk import disk_faults, sync_directory, sync_filesystem
from snaphold.engines.mariadb.installation import Installation
from snaphold.engines.mariadb.words import in_words
from snaphold.errors import Permanent
from snaphold.sandbox import Sandbox, command

# The system tables as mariadb-install-db creates them, without the test database and accounts without a password.
_SQL_FILES: Final = (
    "mysql_system_tables.sql",
    "mysql_performance_tables.sql",
    "mysql_system_tables_data.sql",
    "fill_help_tables.sql",
    "maria_add_gis_sp_bootstrap.sql",
    "mysql_sys_schema.sql",
)
_FIRST: Final = b"CREATE DATABASE IF NOT EXISTS mysql;\nUSE mysql;\nSET @auth_root_socket = NULL;\n"
_LAST: Final = (
    b"\nDELETE FROM mysql.global_priv WHERE User IN ('', 'root', 'mysql');\n"
    b"DELETE FROM mysql.proxies_priv;\nDELETE FROM mysql.db;\n"
)


def template_directory(state_dir: Path, installation: Installation) -> Path:
    """Return ``DIR/template/<version>``, and create it if it is missing. Concurrent callers get the same directory.

    A crash leaves a ``tmp.*`` beside it, which the next call removes.

    Raises:
        Permanent: the server's bootstrap failed, or the disk did.
    """
    template = state_dir / "template" / installation.version
    if template.is_dir():
        return template
    with disk_faults("making an empty data directory"):
        template.parent.mkdir(mode=0o700, exist_ok=True)
        lock = os.open(template.parent / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not template.is_dir():
                _make(template, installation)
        finally:
            os.close(lock)
    return template


def _make(template: Path, installation: Installation) -> None:
    for leftover in template.parent.glob("tmp.*"):
        shutil.rmtree(leftover)
    new = template.with_name(f"tmp.{uuid.uuid4().hex}")
    scratch = template.with_name(f"{new.name}.scratch")
    new.mkdir(mode=0o700)
    scratch.mkdir(mode=0o700)
    try:
        _bootstrap(new, scratch, installation)
        sync_filesystem(new)
        new.rename(template)
        sync_directory(template.parent)
    finally:
        for path in (new, scratch):
            shutil.rmtree(path, ignore_errors=True)


def _bootstrap(data: Path, scratch: Path, installation: Installation) -> None:
    statements = b"\n".join(
        (_FIRST, *((installation.share / name).read_bytes() for name in _SQL_FILES), _LAST),
    )
    argv: list[str | Path] = [
        installation.mariadbd,
        "--no-defaults",
        "--bootstrap",
        f"--datadir={data}",
        f"--tmpdir={scratch}",  # not shared: a starting server removes every temporary table that it finds
        f"--lc-messages-dir={installation.share}",
        f"--character-sets-dir={installation.share / 'charsets'}",
        f"--plugin-dir={data}",
        "--innodb-log-file-size=4M",  # small, so that copies are cheap; the first start changes the size
        "--innodb-buffer-pool-size=32M",
        "--enforce-storage-engine=",
        "--max-allowed-packet=8M",
        "--net-buffer-length=16K",
        "--log-warnings=0",
    ]
    if os.geteuid() == 0:
        argv.append("--user=root")  # the server refuses to run as root without it; it only runs our own statements
    line = command(
        argv,
        sandbox=Sandbox(reads=installation.directories, writes=[data, scratch]),
        environment=installation.environment,
    )
    done = subprocess.run(line, input=statements, env={}, cwd=data, capture_output=True, check=False)
    if done.returncode != 0:
        said = [line for line in done.stderr.decode(errors="replace").splitlines() if "ERROR" in line]
        raise Permanent(
            f"MariaDB's bootstrap ended with status {done.returncode}: {in_words(' '.join(said))}",
            detail="; ".join(said[-2:])[:500],
        )
