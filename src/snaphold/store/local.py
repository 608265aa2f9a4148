"""An object store in a local directory: each object is a file.

    <root>/<account>/z_CLOUDDB_BACKUPS/<name>                     an object
    <root>/<account>/z_CLOUDDB_BACKUPS/<prefix>segments           all segments of an attempt, each at number * size
    <root>/<account>/z_CLOUDDB_BACKUPS/<prefix>sizes              their sizes: u64 little-endian at number * 8

Directories are created and removed as needed. Durable means that the file and its directories were synced. Directories,
symbolic links, and files whose names are no object names (:mod:`snaphold.objects`) belong to somebody else: they are
neither listed nor changed.

A crash leaves an attempt's two segment files, or a ``<name>.<random>.tmp``. ``list`` shows these files, and ``delete``
removes them.
"""

import errno
import fcntl
import os
import re
import secrets
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

from snaphold.errors import Damaged, ObjectExists, ObjectMissing, Permanent, Transient
from snaphold.objects import (
    CONTAINER,
    SEGMENT_SIZE,
    ObjectInfo,
    check_account,
    check_list_prefix,
    check_name,
    check_prefix,
    is_account,
    is_name,
)
from snaphold.store.base import sha256_of_pieces
from snaphold.store.direct import DirectWriter, read_pieces, write_all

Made = TypeVar("Made")
_RACES_S = 10.0  # spent at most on creating a directory that other processes keep removing
_SIZE = struct.Struct("<Q")
_FULL = {errno.ENOSPC, errno.EDQUOT}
_PASSING = {errno.EIO, errno.EAGAIN, errno.EINTR, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE}
_NO_OBJECT = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}  # ELOOP: a symbolic link
_ABSENT = (FileNotFoundError, NotADirectoryError)
_RANDOM_BYTES: Final = 8  # in the name of a draft
_FICLONE: Final = 0x4004_9409  # <linux/fs.h>
_CANNOT_CLONE: Final = {errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.EXDEV, errno.ENOSYS, errno.EPERM}


class LocalStores:
    """The containers of all accounts, in one directory."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._stores: dict[str, LocalStore] = {}

    def of(self, account: str) -> "LocalStore":
        """Return this account's container, the same object each time. Raises ``Permanent`` for an invalid name."""
        store = LocalStore(self._root / check_account(account) / CONTAINER)
        return self._stores.setdefault(account, store)

    def accounts(self) -> Iterator[str]:
        """List the directories that contain a container; others are not accounts."""
        with _mapped():
            try:
                names = sorted(entry.name for entry in self._root.iterdir() if not entry.is_symlink())
            except _ABSENT:
                return
            found = [name for name in names if is_account(name) and (self._root / name / CONTAINER).is_dir()]
        yield from found


class LocalStore:
    """One container as a directory. Implements :class:`snaphold.store.base.ObjectStore`."""

    def __init__(self, container: Path) -> None:
        self._container = container
        self._lock = threading.Lock()  # for the two below, and for creating and removing segment files
        self._known: set[str] = set()  # prefixes whose segment files and directories are durable
        self._writing: dict[str, int] = {}  # running calls of put_segment, by prefix

    def put_segment(
        self, prefix: str, number: int, data: Iterable[bytes | memoryview], *, segment_size: int = SEGMENT_SIZE
    ) -> None:
        """Write the segment to its place in the prefix's file; record its size once its bytes are durable."""
        segments, sizes = self._segment_paths(prefix)
        if number < 0:
            raise Permanent(f"there is no segment {number}")
        with _mapped():
            self._begin_writing(prefix, segments, sizes)
            try:
                length = _write_durably(segments, number * segment_size, data, at_most=segment_size)
                _write_durably(sizes, number * _SIZE.size, [_SIZE.pack(length)], at_most=_SIZE.size)
            except BaseException:
                self._end_writing(prefix, failed=True)
                raise
            self._end_writing(prefix, failed=False)

    def publish(self, name: str, prefix: str, count: int, *, size_bytes: int, segment_size: int = SEGMENT_SIZE) -> None:
        """Link the prefix's file to the name if its sizes add up. Calling it again completes an interrupted call."""
        target = self._resolve(name)
        segments, _ = self._segment_paths(prefix)
        with _mapped():
            published = _is_same_file(target, segments)
            if not published:
                if os.path.lexists(target):
                    raise ObjectExists(name)
                self._check_segments(name, prefix, count, size_bytes=size_bytes, segment_size=segment_size)
                link = partial(os.link, segments, target, follow_symlinks=False)
                try:
                    _in_directory(target.parent, link)
                except FileExistsError:
                    raise ObjectExists(name) from None
            _fsync_directory(target.parent)
            with self._lock:
                self._remove_segment_files(prefix)

    def put(self, name: str, data: bytes) -> None:
        """Write a temporary file beside the name, then link it."""
        target = self._resolve(name)
        with _mapped():
            if os.path.lexists(target):
                raise ObjectExists(name)
            with self._draft(target) as (draft, descriptor):
                _write_small(descriptor, data)
                try:
                    os.link(draft, target, follow_symlinks=False)
                except FileExistsError:
                    raise ObjectExists(name) from None
            _fsync_directory(target.parent)

    def replace(self, name: str, data: bytes) -> None:
        """Write a temporary file beside the name, then rename it."""
        target = self._resolve(name)
        with _mapped():
            with self._draft(target) as (draft, descriptor):
                _write_small(descriptor, data)
                draft.rename(target)
            _fsync_directory(target.parent)

    def replace_segments(
        self,
        name: str,
        segments: Iterable[tuple[int, Sequence[bytes | memoryview]]],
        *,
        size_bytes: int,
        segment_size: int = SEGMENT_SIZE,
    ) -> None:
        """Write into a clone of the file (a copy where the file system cannot clone), then rename the clone."""
        target = self._resolve(name)
        with _mapped(name), self._open(name) as old:
            items = iter(segments)
            first = next(items, None)
            if first is None and os.fstat(old.fileno()).st_size == size_bytes:
                return
            self._remove_drafts(target)
            with self._draft(target) as (draft, new):
                _clone(old.fileno(), new)
                for number, pieces in () if first is None else chain([first], items):
                    _write_segment(new, number * segment_size, pieces, segment_size=segment_size, end=size_bytes)
                os.ftruncate(new, size_bytes)
                os.fsync(new)
                if not _is_same_file(target, old.fileno()):
                    raise ObjectMissing(name)  # deleted meanwhile
                draft.rename(target)
            _fsync_directory(target.parent)

    def get(self, name: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Open the file at once, read it while the pieces are consumed."""
        if start < 0 or (length is not None and length < 0):
            raise Permanent(f"there is no range of {length} bytes from {start}")
        file = self._open(name)
        size_bytes = os.fstat(file.fileno()).st_size
        end = size_bytes if length is None else min(start + length, size_bytes)

        def pieces(position: int) -> Iterator[bytes]:
            with file, _mapped(name):
                for piece in read_pieces(file.fileno(), position, end):
                    position += len(piece)
                    yield piece
                if position < end:
                    raise Transient(f"{name} ended at {position} of {end} bytes")

        return pieces(start)

    def sha256(self, name: str, start: int = 0, length: int | None = None) -> str:
        """Read the file."""
        return sha256_of_pieces(self.get(name, start, length))

    def segment_sha256(self, prefix: str, number: int, size_bytes: int, *, segment_size: int = SEGMENT_SIZE) -> str:
        """Read the segment from the prefix's file if its size was recorded, because only then its bytes are durable."""
        _, sizes = self._segment_paths(prefix)
        with _mapped():
            try:
                noted = [size for (size,) in _SIZE.iter_unpack(sizes.read_bytes())]
            except _ABSENT:
                noted = []
        if number >= len(noted) or noted[number] != size_bytes:
            raise ObjectMissing(f"{prefix}{number}")
        return self.sha256(f"{prefix}segments", number * segment_size, size_bytes)

    def size(self, name: str) -> int:
        """Return the file's length."""
        path = self._resolve(name)
        with _mapped(name):
            status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise ObjectMissing(name)
        return status.st_size

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Walk the directories that can contain such names, in the order of the full names."""
        check_list_prefix(prefix)
        directory, slash, _ = prefix.rpartition("/")
        return self._walk(self._container / directory, directory + slash, prefix)

    def delete(self, name: str) -> None:
        """Unlink the file, and remove the directories that are empty then."""
        path = self._resolve(name)
        with _mapped():
            try:
                if not stat.S_ISREG(path.lstat().st_mode):
                    return
                path.unlink()
            except _ABSENT:
                return
            _fsync_directory(path.parent)
            self._remove_empty_directories(path.parent)

    def _resolve(self, name: str) -> Path:
        return self._container / check_name(name)

    def _segment_paths(self, prefix: str) -> tuple[Path, Path]:
        directory = self._container / check_prefix(prefix)
        return directory / "segments", directory / "sizes"

    @contextmanager
    def _draft(self, target: Path) -> Iterator[tuple[Path, int]]:
        """Create a temporary file beside ``target``; yields its path and descriptor, and removes it at the end.

        The body makes its bytes durable and gives it the object's name.
        """
        draft = target.with_name(f"{target.name}.{secrets.token_hex(_RANDOM_BYTES)}.tmp")
        make = partial(os.open, draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(_in_directory(target.parent, make), "r+b", buffering=0) as file:
                yield draft, file.fileno()
        finally:
            with suppress(FileNotFoundError):
                draft.unlink()

    def _open(self, name: str) -> BinaryIO:
        """Open an object's file to read it. Raises ``ObjectMissing``."""
        with _mapped(name):
            descriptor = os.open(self._resolve(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            file = os.fdopen(descriptor, "rb", buffering=0)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                file.close()
                raise ObjectMissing(name)
            return file

    @staticmethod
    def _remove_drafts(target: Path) -> None:
        """Remove the drafts of an object that a crash left: each may be as long as the object."""
        form = re.compile(re.escape(target.name) + rf"\.[0-9a-f]{{{2 * _RANDOM_BYTES}}}\.tmp")
        for path in list(target.parent.iterdir()):
            if form.fullmatch(path.name):
                path.unlink(missing_ok=True)

    def _begin_writing(self, prefix: str, segments: Path, sizes: Path) -> None:
        with self._lock:
            if prefix not in self._known or not segments.exists():
                for path in (segments, sizes):
                    make = partial(os.open, path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
                    os.close(_in_directory(segments.parent, make))
                _fsync_directory(segments.parent)
                self._known.add(prefix)
            if segments.stat().st_nlink > 1:
                raise Permanent(f"the segments under {prefix} have been published already")
            self._writing[prefix] = self._writing.get(prefix, 0) + 1

    def _end_writing(self, prefix: str, *, failed: bool) -> None:
        with self._lock:
            self._writing[prefix] -= 1
            if not self._writing[prefix]:
                del self._writing[prefix]
            _, sizes = self._segment_paths(prefix)
            if failed and prefix not in self._writing:
                with suppress(OSError):  # the caller gets the first error
                    if not any(sizes.read_bytes()):
                        self._remove_segment_files(prefix)

    def _remove_segment_files(self, prefix: str) -> None:
        paths = self._segment_paths(prefix)
        self._known.discard(prefix)
        for path in paths:
            with suppress(FileNotFoundError):
                path.unlink()
        _fsync_directory(paths[0].parent)
        self._remove_empty_directories(paths[0].parent)

    def _check_segments(self, name: str, prefix: str, count: int, *, size_bytes: int, segment_size: int) -> None:
        """Make sure that exactly the first ``count`` segments are in the file, and durable."""
        segments, sizes = self._segment_paths(prefix)
        try:
            noted = [size for (size,) in _SIZE.iter_unpack(sizes.read_bytes())][:count]
            file = os.fdopen(os.open(segments, os.O_RDWR | os.O_NOFOLLOW), "r+b", buffering=0)
        except _ABSENT:
            raise Damaged(f"{name} cannot be published: it has no segments") from None
        with file:
            whole = all(size == segment_size for size in noted[:-1]) and all(noted)
            length = os.fstat(file.fileno()).st_size
            if not whole or count < 1 or len(noted) != count or sum(noted) != size_bytes or length < size_bytes:
                raise Damaged(f"{name} cannot be published: its {count} segments do not add up to {size_bytes} bytes")
            os.ftruncate(file.fileno(), size_bytes)
            os.fsync(file.fileno())

    def _walk(self, directory: Path, above: str, prefix: str) -> Iterator[ObjectInfo]:
        with _mapped():
            try:
                with os.scandir(directory) as found:
                    entries = [(entry.name + "/" * entry.is_dir(follow_symlinks=False), entry) for entry in found]
            except _ABSENT:
                return
        for label, entry in sorted(entries, key=lambda pair: pair[0]):
            name = above + label
            if label.endswith("/"):
                if name.startswith(prefix) or prefix.startswith(name):
                    yield from self._walk(directory / entry.name, name, prefix)
            elif name.startswith(prefix) and is_name(name) and entry.is_file(follow_symlinks=False):
                with _mapped():
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue  # deleted meanwhile
                yield ObjectInfo(name=name, size_bytes=status.st_size, modified_s=status.st_mtime)

    def _remove_empty_directories(self, directory: Path) -> None:
        """Remove the empty directories of a name, from the bottom up, but not the container."""
        while directory != self._container:
            try:
                directory.rmdir()
            except FileNotFoundError:
                pass
            except OSError as error:
                if error.errno in {errno.ENOTEMPTY, errno.EEXIST}:
                    return
                raise
            directory = directory.parent
            _fsync_directory(directory)


def _in_directory(directory: Path, make: Callable[[], Made]) -> Made:
    """Create something in a directory. Creates the directory and its parents if necessary, and makes them durable.

    Another process may remove an empty directory meanwhile; it is created again. What ``make`` creates keeps it.
    """
    new: set[Path] = set()
    end = time.monotonic() + _RACES_S
    while time.monotonic() < end:
        with suppress(FileNotFoundError):
            missing = [path for path in (directory, *directory.parents) if not path.is_dir()]
            new.update(missing)
            for path in reversed(missing):
                with suppress(FileExistsError):
                    path.mkdir(mode=0o700)
            made = make()
            for path in new:
                _fsync_directory(path.parent)
            return made
    raise Transient("the store's directories are removed as fast as they are created")


@contextmanager
def _mapped(name: str | None = None) -> Iterator[None]:
    """Turn an ``OSError`` into an error of this project. ``name``: the object that may be missing."""
    try:
        yield
    except OSError as error:
        if name is not None and error.errno in _NO_OBJECT:
            raise ObjectMissing(name) from error
        if error.errno in _FULL:
            raise Permanent("the store has no space left") from error
        if error.errno in _PASSING:
            raise Transient(f"the store failed: {error.strerror}") from error
        raise Permanent(f"the store refused: {error.strerror}") from error


def _is_same_file(one: Path, other: Path | int) -> bool:
    """Whether both exist and are one file. ``other``: a path, or the descriptor of an open file."""
    try:
        return os.path.samestat(one.lstat(), os.fstat(other) if isinstance(other, int) else other.lstat())
    except _ABSENT:
        return False


def _clone(source: int, target: int) -> None:
    """Fill a new file with the bytes of another: by reference (FICLONE, ioctl_ficlone(2)), else by copying them."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno not in _CANNOT_CLONE:
            raise
    else:
        return
    position, writer = 0, DirectWriter()
    for piece in read_pieces(source, 0, os.fstat(source).st_size):
        writer.write(target, piece, position)
        position += len(piece)
    writer.flush()


def _write_small(descriptor: int, data: bytes) -> None:
    """Write all of a small object; it is durable when this returns."""
    write_all(descriptor, data, 0)
    os.fsync(descriptor)


def _write_segment(
    descriptor: int, position: int, pieces: Sequence[bytes | memoryview], *, segment_size: int, end: int
) -> None:
    """Write a segment in its place. Raises ``Permanent`` when it does not fit into an object that ends at ``end``."""
    length = sum(len(piece) for piece in pieces)
    if position < 0 or length > segment_size or position + length > end:
        raise Permanent(f"an object of {end} bytes has no place for {length} bytes at {position}")
    for piece in pieces:
        write_all(descriptor, piece, position)
        position += len(piece)


def _write_durably(path: Path, position: int, data: Iterable[bytes | memoryview], *, at_most: int) -> int:
    """Write the pieces one after the other, as they arrive; return their total length.

    Raises ``Permanent`` when there are no bytes, or more than ``at_most``; bytes beyond are not written.
    """
    length, writer = 0, DirectWriter()
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_NOFOLLOW), "wb", buffering=0) as file:
        for piece in data:
            if length + len(piece) > at_most:
                raise Permanent(f"more than {at_most} bytes cannot be kept as one segment")
            writer.write(file.fileno(), piece, position + length)
            length += len(piece)
        if not length:
            raise Permanent("a segment without bytes cannot be kept")
        writer.flush()
        os.fdatasync(file.fileno())
    return length


def _fsync_directory(directory: Path) -> None:
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return  # removed meanwhile with its last object
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
