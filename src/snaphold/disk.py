"""Files and directories of database servers: writes them atomically, sets their owner, measures and syncs them."""

import ctypes
import errno
import os
import re
import shutil
import stat
import struct
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from snaphold.errors import Permanent, SetupError

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_AT_FDCWD: Final = -100
_AT_SYMLINK_NOFOLLOW: Final = 0x100
_STATX_BTIME: Final = 0x800
_LOG_NAME: Final = re.compile(  # logs and temporary tables, in the top directory only: they hold no data of the source
    r"ib_logfile\d+|ibtmp\d+|aria_log_control|aria_log\.\d{8}"
)


@dataclass(frozen=True, kw_only=True)
class Owner:
    """The system user that owns a server's files. Its user and group have the same number."""

    uid: int
    gid: int


@contextmanager
def disk_faults(doing: str) -> Iterator[None]:
    """Turn an ``OSError`` into ``Permanent`` with a readable reason. ``doing``: the start of that reason."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise Permanent(f"{doing}: the disk of this host is full") from error
        raise Permanent(f"{doing}: {error.strerror or 'the disk of this host refuses'}") from error


def make_directory(path: Path, *, owner: Owner | None, mode: int = 0o700) -> None:
    """Create a directory, or change an existing one, so that it has this owner (None: this process's) and mode."""
    path.mkdir(exist_ok=True)
    if owner is not None:
        os.chown(path, owner.uid, owner.gid, follow_symlinks=False)
    path.chmod(mode)


def closed_ancestor(path: Path) -> Path | None:
    """The outermost directory above ``path`` (or itself) that other system users cannot pass; None when they can."""
    for directory in (*reversed(path.resolve().parents), path.resolve()):
        if not directory.stat().st_mode & stat.S_IXOTH:
            return directory
    return None


def make_traversable(directory: Path) -> None:
    """Create the directory if necessary, and let other system users pass through it.

    Raises:
        SetupError: a directory above is closed to them, or this one cannot be created or changed.
    """
    try:
        directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        directory.chmod(stat.S_IMODE(directory.stat().st_mode) | stat.S_IXOTH)
    except OSError as error:
        raise SetupError(f"the directory {directory} cannot be used: {error.strerror}") from error
    closed = closed_ancestor(directory)
    if closed is not None:
        raise SetupError(
            f"{closed} is closed to the system users that the database servers run as: "
            f"put the state directory elsewhere, or allow passing with 'chmod o+x {closed}'"
        )


def write_atomically(
    path: Path, data: bytes, *, owner: Owner | None = None, reader: Owner | None = None, sync: bool = True
) -> None:
    """Write ``data`` to ``path`` with mode 0600, replacing any old file. Durable unless ``sync`` is False.

    ``owner``: the owner of the file, by default the user of this process. ``reader``: the user whose group may read
    the file (mode 0640). A crash leaves the old file or the new one, and possibly a ``.tmp.*`` file beside it.
    """
    new = path.with_name(f".tmp.{uuid.uuid4().hex}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            if owner is not None:
                os.fchown(file.fileno(), owner.uid, owner.gid)
            if reader is not None:
                os.fchown(file.fileno(), -1, reader.gid)
                os.fchmod(file.fileno(), 0o640)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        new.rename(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    if sync:
        sync_directory(path.parent)


def read_untrusted(path: Path, limit_bytes: int, *, tail: bool = False) -> bytes | None:
    """Read up to ``limit_bytes`` of a file in a directory that another user can write to; None if it cannot be opened.

    ``tail``: read the end of the file. Symbolic links are not followed, and nothing but a regular file is read,
    because the server's user may have put anything there.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            return None
        if tail:
            file.seek(max(0, facts.st_size - limit_bytes))
        return file.read(limit_bytes)


def copy_data(source: Path, target: Path, owner: Owner | None) -> None:
    """Copy a trusted data directory (the template) to a new one that belongs to ``owner``."""
    make_directory(target, owner=owner)
    for path in sorted(source.iterdir()):
        if path.is_dir():
            copy_data(path, target / path.name, owner)
            continue
        copy = target / path.name
        shutil.copyfile(path, copy)
        if owner is not None:
            os.chown(copy, owner.uid, owner.gid, follow_symlinks=False)
        copy.chmod(0o600)


def refuse_foreign_files(directory: Path, owner: Owner | None) -> None:
    """Check that a restored data directory contains only regular files and directories of its owner.

    Raises:
        Permanent: it contains a link, a device, a socket, or a file of another user.
    """
    uid = os.geteuid() if owner is None else owner.uid
    for entry in _walk(directory):
        facts = entry.stat(follow_symlinks=False)
        if not (stat.S_ISREG(facts.st_mode) or stat.S_ISDIR(facts.st_mode)):
            raise Permanent(f"the restored data holds {entry.name}, which is neither a file nor a directory")
        if facts.st_uid != uid or (stat.S_ISREG(facts.st_mode) and facts.st_nlink != 1):
            raise Permanent(f"the restored data holds {entry.name}, which does not belong to it alone")


def used_bytes(data: Path) -> int:
    """Return the disk space that a data directory uses, without redo logs, Aria logs and temporary tables.

    Logs are left out because the configuration sets their size, whatever is stored. The result counts blocks, not
    lengths, because sparse and page-compressed tables use less space than their length. The cost is one ``lstat`` for
    each file.
    """
    total = 0
    for entry in _walk(data):
        try:
            if entry.is_file(follow_symlinks=False):
                total += _counted(entry.path.removeprefix(f"{data}/"), entry.stat(follow_symlinks=False))
        except FileNotFoundError:  # a table was dropped meanwhile
            continue
    return total


def file_used_bytes(data: Path, path: str) -> int:
    """Return how much one file adds to ``used_bytes``; 0 if that is unknown. ``path``: relative to ``data``."""
    try:
        return _counted(path, (data / path).lstat())
    except OSError:
        return 0


def _counted(path: str, facts: os.stat_result) -> int:
    counts = stat.S_ISREG(facts.st_mode) and not _LOG_NAME.fullmatch(path)
    return facts.st_blocks * 512 if counts else 0


def birth_ns(path: Path) -> int | None:
    """Return when a file was created, in nanoseconds since the epoch; None if the file system does not record it."""
    answer = ctypes.create_string_buffer(256)
    if _LIBC.statx(_AT_FDCWD, os.fsencode(path), _AT_SYMLINK_NOFOLLOW, _STATX_BTIME, answer) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(path))
    (mask,) = struct.unpack_from("=I", answer, 0)
    seconds, nanoseconds = struct.unpack_from("=qI", answer, 80)
    return int(seconds) * 1_000_000_000 + int(nanoseconds) if mask & _STATX_BTIME else None


def sync_filesystem(path: Path) -> None:
    """Make everything durable that was written to the file system of ``path`` (syncfs(2))."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _LIBC.syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Make the entries of a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _walk(directory: Path) -> Iterator[os.DirEntry[str]]:
    waiting = [str(directory)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    yield entry
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
        except FileNotFoundError:  # a database was dropped meanwhile
            continue
