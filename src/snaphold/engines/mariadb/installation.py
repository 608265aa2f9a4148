"""Finds a MariaDB installation on this machine: server, backup tool and mbstream of one version.

It installs nothing and does not touch a server that the system runs: the programs run with ``--no-defaults`` and in
directories of snaphold.
"""

import mmap
import os
import re
import shutil
import stat
import subprocess
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import snaphold
from snaphold.disk import closed_ancestor
from snaphold.errors import SetupError

MINIMUM: Final = (10, 11)  # BACKUP STAGE, the redo log in one file, and mbstream's fixes
PROGRAM_DIRECTORIES: Final = ("usr/sbin", "usr/bin", "usr/local/sbin", "usr/local/bin", "sbin", "bin", "usr/libexec")
SHARE_DIRECTORIES: Final = ("usr/share/mysql", "usr/share/mariadb", "usr/local/share/mysql", "share/mysql", "share")
BOOTSTRAP_SQL: Final = "mysql_system_tables.sql"
VERSION_LINE: Final = re.compile(r"(\d+)\.(\d+)\.(\d+)-MariaDB")


@dataclass(frozen=True, kw_only=True)
class Installation:
    """The programs of one MariaDB. ``root`` is the directory that contains them: ``/`` for an installed one."""

    root: Path
    version: str  # "10.11.19"
    mariadbd: Path
    mariabackup: Path
    mbstream: Path
    share: Path  # error messages, character sets, and the SQL of the system tables
    library_path: str | None  # LD_LIBRARY_PATH, for an unpacked one
    takes_sockets: bool  # whether the server can inherit its sockets (systemd's socket activation)

    @property
    def series(self) -> str:
        """``10.11``. Data directory, server and backup tool must be of the same series."""
        return ".".join(self.version.split(".")[:2])

    @property
    def directories(self) -> list[Path]:
        """The directories of its programs, libraries and messages, except those of the system (``/usr``).

        Links are followed: a program may be elsewhere than where it was found.
        """
        programs = (self.mariadbd, self.mariabackup, self.mbstream)
        found = [self.share.resolve(), *(program.resolve().parents[1] for program in programs)]
        if self.root != Path("/"):
            found.append(self.root)
        return sorted({path for path in found if path != Path("/")})

    @property
    def environment(self) -> Mapping[str, str]:
        """The whole environment of the programs. They inherit nothing, because our environment may contain secrets."""
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "TZ": os.environ.get("TZ", "UTC")}
        if self.library_path is not None:
            environment["LD_LIBRARY_PATH"] = self.library_path
        return environment


def find_installation(engine_dir: Path | None) -> Installation:
    """Find the MariaDB to use: ``engine_dir``, or ``.engine/root`` of this checkout, or the installed one.

    Raises:
        SetupError: there is none, a program is missing, or tool and server are of different or too old versions.
    """
    unpacked = Path(snaphold.__file__).resolve().parents[2] / ".engine" / "root"
    if engine_dir is not None:
        return _examine(engine_dir.resolve())
    if unpacked.is_dir():
        return _examine(unpacked)
    return _examine(Path("/"), os.environ.get("PATH", "").split(os.pathsep))


def reachable_installation(installation: Installation, state_dir: Path) -> Installation:
    """Return an installation that every system user can run: this one, or a copy in ``DIR/engine/<version>``.

    Servers run as users of their own, which cannot reach an unpacked MariaDB in a private home directory.

    Raises:
        SetupError: an installed one is closed to others, or the copy cannot be made.
    """
    closed = closed_ancestor(installation.mariadbd) or closed_ancestor(installation.share)
    if closed is None:
        return installation
    if installation.root == Path("/"):
        raise SetupError(f"{closed} is closed to the system users that the database servers run as")
    copy = state_dir / "engine" / installation.version
    if installation.library_path is not None and set(os.fspath(copy)) & {":", ";"}:
        raise SetupError(f"{copy}: ':' and ';' cannot be in the path of libraries: put the state directory elsewhere")
    if not copy.exists():
        _copy_tree(installation.root, copy)
    return _examine(copy)


def _examine(root: Path, search: Iterable[str] = ()) -> Installation:
    directories = [root / part for part in PROGRAM_DIRECTORIES] + [Path(part) for part in search if part]
    server = _program(directories, "mariadbd", root)
    tool = _program(directories, "mariadb-backup", root, "mariabackup")
    share = next((root / part for part in SHARE_DIRECTORIES if (root / part / BOOTSTRAP_SQL).is_file()), None)
    if share is None:
        raise SetupError(f"no {BOOTSTRAP_SQL} of MariaDB under {root}: its server package is incomplete")
    library_path = None
    if root != Path("/"):
        library_path = os.pathsep.join(str(path) for path in sorted(root.glob("usr/lib/*-linux-gnu*"))) or None
    found = Installation(
        root=root,
        version="",
        mariadbd=server,
        mariabackup=tool,
        mbstream=_program(directories, "mbstream", root),
        share=share,
        library_path=library_path,
        takes_sockets=_mentions(server, b"sd_listen_fds"),
    )
    version = _version_of(found, server)
    tool_version = _version_of(found, tool)
    if version != tool_version:
        raise SetupError(
            f"MariaDB's server is {version} ({server}) but its backup tool is {tool_version} ({tool}): "
            "a backup needs both of one version"
        )
    if tuple(int(part) for part in version.split(".")[:2]) < MINIMUM:
        raise SetupError(f"MariaDB {version} ({server}) is too old: {MINIMUM[0]}.{MINIMUM[1]} or later is needed")
    return replace(found, version=version)


def _mentions(program: Path, name: bytes) -> bool:
    with program.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(name) >= 0


def _program(directories: list[Path], name: str, root: Path, other_name: str | None = None) -> Path:
    for candidate in filter(None, (name, other_name)):
        for directory in directories:
            if os.access(directory / candidate, os.X_OK):
                return directory / candidate
    where = "on this machine" if root == Path("/") else f"under {root}"
    raise SetupError(f"there is no {name} {where}: run 'make setup', install MariaDB, or set engine_dir")


def _version_of(installation: Installation, program: Path) -> str:
    defaults = ["--no-defaults"] if program == installation.mariadbd else []
    try:
        answer = subprocess.run(
            [program, *defaults, "--version"],
            env=dict(installation.environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SetupError(f"{program} cannot be run: {error}") from error
    match = VERSION_LINE.search(answer.stdout + answer.stderr)
    if answer.returncode != 0 or match is None:
        said = (answer.stderr or answer.stdout).strip().splitlines()
        raise SetupError(f"{program} does not report a MariaDB version: {said[-1] if said else 'no output'}")
    return ".".join(match.groups())


def _copy_tree(source: Path, target: Path) -> None:
    """Copy a directory atomically. A crash leaves a ``tmp.*`` beside the target, which the next copy removes."""
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    target.parent.chmod(0o755)
    for leftover in target.parent.glob("tmp.*"):
        shutil.rmtree(leftover, ignore_errors=True)
    new = target.parent / f"tmp.{uuid.uuid4().hex}"
    try:
        shutil.copytree(source, new, symlinks=True, ignore=shutil.ignore_patterns("doc", "man", "lintian"))
        for directory, _, names in os.walk(new):
            for path in (Path(directory), *(Path(directory, name) for name in names)):
                if not path.is_symlink():
                    path.chmod(0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644)
        new.rename(target)
    except OSError as error:
        shutil.rmtree(new, ignore_errors=True)
        if not target.exists():  # else another process was faster
            raise SetupError(f"the engine cannot be copied to {target}: {error.strerror}") from error
