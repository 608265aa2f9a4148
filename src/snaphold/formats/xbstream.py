"""Reads the xbstream format incrementally, and detects every way in which a stream can be incomplete.

A stream is a sequence of chunks. Numbers are little-endian. Source: mbstream of MariaDB 10.11.19.

    "XBSTCK01"  u8 flags  u8 type  u32 length of path  path
        type P, payload:  u64 length  u64 offset in the file  u32 CRC-32 of the payload  payload
        type S, seek:     u64 offset in the file at which the next payload begins, after a hole
        type E:           nothing; the file is complete
        type R, rename:   u32 length of new path  new path
        type D, remove:   nothing
    flags: 1 chunks of unknown type may be skipped (they are refused here); 2 replaces a complete file of this path

Chunks of several files may alternate. mbstream itself exits with status 0 when a stream ends at a chunk boundary, when
a file is never completed, and when a file cannot be created. A backup needs stricter checks.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Protocol

from snaphold.errors import Damaged

MAGIC: Final = b"XBSTCK01"
REPLACES: Final = 2
MAX_PATH: Final = 511  # bytes; mbstream's FN_REFLEN - 1
MAX_PART: Final = 255  # bytes; NAME_MAX
MADE_UP: Final = (".meta", ".delta")  # suffixes of an increment; files of these names need not be created
MAX_DEPTH: Final = 8
MAX_OPEN: Final = 256  # files that may be incomplete at once; the tool writes one file for each of its threads
_NOTHING: Final[Mapping[str, int]] = MappingProxyType({})
_PREFIXES: Final = ("xtrabackup_", "mariadb_backup_")  # of the tool's own files: before MariaDB 11, and since then
LAST_FILES: Final = frozenset(f"{prefix}info" for prefix in _PREFIXES)
CHECKPOINT_FILES: Final = tuple(f"{prefix}checkpoints" for prefix in _PREFIXES)
FACT_FILES: Final = LAST_FILES | {  # for people only: neither --prepare nor a server reads them
    f"{prefix}{name}" for prefix in _PREFIXES for name in ("binlog_info", "galera_info", "slave_info")
}
DISPLACED: Final = {
    f"{name}.file": name for name in FACT_FILES
}  # used when a database has that name (databases have no dot)
TOOL_FILES: Final = FACT_FILES.union(  # the tool's regular files beside the databases; any other file is the customer's
    CHECKPOINT_FILES,
    DISPLACED,
    (f"{prefix}binlog_pos_innodb" for prefix in _PREFIXES),
    ("backup-my.cnf", "ib_buffer_pool"),
)

_WHILE_COMMITS_WAIT: Final = ("mysql/general_log.CS", "mysql/slow_log.CS")  # first, the server's logs in tables
_NOT_TRANSACTIONAL: Final = (".MYD", ".MYI", ".MRG", ".ARZ", ".ARM", ".CSV", ".CSM")  # from BACKUP STAGE FLUSH on
_DEFINITIONS: Final = (".frm", ".new", ".ren", ".del")  # also of tables created or changed meanwhile: from BLOCK_DDL on

_MAX_LENGTH: Final = MAX_PATH + max(map(len, MADE_UP))  # bytes
_HEAD = struct.Struct("<8sBcI")
_PAYLOAD = struct.Struct("<QQI")
_SEEK = struct.Struct("<Q")
_LENGTH = struct.Struct("<I")
_AFTER_PATH: Final = {b"P": _PAYLOAD.size, b"S": _SEEK.size, b"E": 0, b"R": _LENGTH.size, b"D": 0}  # by type


@dataclass(slots=True)
class File:
    """One file of a stream. A file and its later replacement are two files."""

    number: int  # counts the files by their first chunks, from 0
    path: str  # the current one
    size_bytes: int = 0
    complete: bool = False
    present: bool = True  # False after it was removed or replaced
    position: int = 0  # where its next payload begins
    end: int = 0  # where its last chunk ends in the stream, after it is complete


@dataclass(frozen=True, slots=True)
class Chunk:
    """The position of a payload: ``length`` bytes at ``offset`` in a file and at ``stream_offset`` in the stream."""

    file: int
    offset: int
    stream_offset: int
    length: int


class Sink(Protocol):
    """Receives the contents of a stream in order. A payload arrives in pieces, as the stream does."""

    def opened(self, file: File) -> None:
        """A file begins. A file that it replaces was closed and removed before."""

    def payload(self, file: File, offset: int, piece: memoryview) -> None:
        """Bytes of a file arrive. The view is valid during the call only."""

    def chunk_ended(self, file: File, crc32: int) -> None:
        """A payload is complete. ``crc32``: its checksum, as the stream states it."""

    def closed(self, file: File) -> None:
        """The file is complete."""

    def renamed(self, file: File, old_path: str) -> None:
        """A complete file was renamed, and replaces any file of its new path."""

    def removed(self, file: File) -> None:
        """A complete file was removed."""


class XbstreamReader:
    """Reads a stream incrementally. Call ``feed`` with pieces of any size, in order, and then ``finish``.

    It reads the headers only, which takes a few microseconds for each chunk; a GB has about 300 chunks.
    """

    def __init__(self, sink: Sink | None = None) -> None:
        self.files: list[File] = []
        self.chunks: list[Chunk] = []  # payloads in the stream's order, except empty ones
        self.position = 0  # bytes fed so far
        self._sink = sink
        self._paths: dict[str, File] = {}  # the files that are present
        self._open = 0
        self._last: File | None = None
        self._pending = bytearray()  # an incomplete header
        self._payload: File | None = None  # the file that the current payload belongs to
        self._remaining = 0  # bytes of that payload that have not arrived yet
        self._crc32 = 0

    def feed(self, data: memoryview | bytes) -> None:
        """Read the next bytes.

        Raises:
            Damaged: this is no xbstream, or it is unsafe. Do not feed anything after that.
        """
        view = memoryview(data)
        at, end, start = 0, len(view), self.position
        while at < end:
            if self._payload is not None:
                count = min(self._remaining, end - at)
                if self._sink is not None:
                    self._sink.payload(self._payload, self._payload.position, view[at : at + count])
                self._payload.position += count
                self._remaining -= count
                at += count
                self.position = start + at
                if not self._remaining:
                    self._end_payload()
            else:
                at += self._feed_header(view[at:])
                self.position = start + at

    def finish(self) -> None:
        """Check that the stream is complete. Call it at the end.

        A payload that is missing at the end of a file is not detected here. The stream's length, which the manifest
        records, reveals it.

        Raises:
            Damaged: the stream ends inside a chunk or before a file is complete, or the file that the tool writes last
                is missing.
        """
        if self._pending or self._payload is not None:
            raise Damaged(f"the stream ends inside a chunk, at byte {self.position}")
        for file in self.files:
            if not file.complete:
                raise Damaged(f"the stream ends before {file.path} is complete")
        if self._last is None or self._last.path not in LAST_FILES:
            raise Damaged("the stream ends without the file that the tool writes last")

    def _feed_header(self, view: memoryview) -> int:
        """Read more of a header, and process it if it is complete; return how many bytes were read."""
        need = _header_length(self._pending)
        taken = min(need - len(self._pending), len(view))
        self._pending += view[:taken]
        if len(self._pending) == need == _header_length(self._pending):
            header = bytes(self._pending)
            self._pending.clear()
            self._act(header, self.position + taken)
        return taken

    def _act(self, header: bytes, end: int) -> None:
        """Process a complete header. ``end``: where it ends in the stream."""
        _, flags, kind, length = _HEAD.unpack_from(header)
        path = safe_path(header[_HEAD.size : _HEAD.size + length])
        rest = _HEAD.size + length
        if kind == b"P":
            size, offset, self._crc32 = _PAYLOAD.unpack_from(header, rest)
            file = self._writable(path, flags)
            if offset != file.position:
                raise Damaged(f"{path} goes on at byte {offset} instead of {file.position}")
            if size:
                self.chunks.append(Chunk(file.number, offset, end, size))
            self._payload, self._remaining = file, size
            if not size:
                self._end_payload()
        elif kind == b"S":
            (offset,) = _SEEK.unpack_from(header, rest)
            file = self._writable(path, flags)
            if offset < file.position:
                raise Damaged(f"{path} goes back from byte {file.position} to {offset}")
            file.position = offset
        elif kind == b"E":
            self._complete(self._writable(path, flags), end)
        else:
            found = self._complete_file(path)
            if kind == b"R":
                self._rename(found, safe_path(header[rest + _LENGTH.size :]))
            elif found is not None:
                self._remove(found)

    def _writable(self, path: str, flags: int) -> File:
        """Return the file that a chunk belongs to: an incomplete file, or a new one."""
        file = self._paths.get(path)
        if file is not None and not file.complete:
            return file
        if file is not None:
            if not flags & REPLACES:
                raise Damaged(f"{path} comes twice")
            self._remove(file)
        if self._open == MAX_OPEN:
            raise Damaged(f"more than {MAX_OPEN} files are written at once")
        file = File(len(self.files), path)
        self.files.append(file)
        self._paths[path] = file
        self._open += 1
        if self._sink is not None:
            self._sink.opened(file)
        return file

    def _end_payload(self) -> None:
        file = self._payload
        assert file is not None  # noqa: S101 -- only called within a payload
        self._payload = None
        file.size_bytes = max(file.size_bytes, file.position)
        if self._sink is not None:
            self._sink.chunk_ended(file, self._crc32)

    def _complete(self, file: File, end: int) -> None:
        file.complete, file.end = True, end
        self._open -= 1
        self._last = file
        if self._sink is not None:
            self._sink.closed(file)

    def _complete_file(self, path: str) -> File | None:
        """Return the complete file to rename or remove; None if the stream never had it, which is harmless."""
        file = self._paths.get(path)
        if file is not None and not file.complete:
            raise Damaged(f"{path} is renamed or removed before it is complete")
        return file

    def _rename(self, file: File | None, path: str) -> None:
        replaced = self._complete_file(path)
        if file is None or file is replaced:
            return
        if replaced is not None:
            self._remove(replaced)
        old = file.path
        del self._paths[old]
        self._paths[path] = file
        file.path = path
        if self._sink is not None:
            self._sink.renamed(file, old)

    def _remove(self, file: File) -> None:
        del self._paths[file.path]
        file.present = False
        if self._sink is not None:
            self._sink.removed(file)


class Watch(XbstreamReader):
    """Reads a stream on its way to the store, and captures the beginnings of some small files.

    ``wanted``: maps the paths of these files, or ``*`` and a suffix of such paths, to the number of bytes to capture.
    """

    def __init__(self, wanted: Mapping[str, int] = _NOTHING) -> None:
        self._capture = _Capture(wanted)
        super().__init__(self._capture)

    @property
    def captured(self) -> dict[str, bytes]:
        """The bytes captured so far, by path."""
        return {path: bytes(content) for path, content in self._capture.content.items()}

    @property
    def writers_wait(self) -> bool:
        """Whether the tool has begun to copy the files of ``BACKUP STAGE FLUSH``, which blocks writes to MyISAM tables.

        Non-transactional Aria tables are copied then too, but look like the tables that are copied before.
        """
        return self._capture.writers_wait

    @property
    def commits_wait(self) -> bool:
        """Whether the tool has begun to copy the files of ``BACKUP STAGE BLOCK_COMMIT``, which blocks all commits."""
        return self._capture.commits_wait


class _Capture:
    """The sink that captures the beginnings of some files."""

    def __init__(self, wanted: Mapping[str, int]) -> None:
        self.content: dict[str, bytearray] = {}
        self.commits_wait = self.writers_wait = False
        self._wanted = wanted
        self._most = max(wanted.values(), default=0)

    def opened(self, file: File) -> None:
        self.commits_wait = self.commits_wait or file.path.startswith(_WHILE_COMMITS_WAIT)
        self.writers_wait = self.writers_wait or file.path.endswith(_NOT_TRANSACTIONAL + _DEFINITIONS)
        if self._limit(file.path):
            self.content[file.path] = bytearray()

    def payload(self, file: File, offset: int, piece: memoryview) -> None:
        if offset >= self._most:  # true of nearly all payloads
            return
        content, limit = self.content.get(file.path), self._limit(file.path)
        if content is not None and offset < limit:
            content += bytes(offset - len(content)) + piece[: limit - offset]

    def chunk_ended(self, file: File, crc32: int) -> None:
        pass

    def closed(self, file: File) -> None:
        pass

    def renamed(self, file: File, old_path: str) -> None:
        content = self.content.pop(old_path, None)
        if content is not None and self._limit(file.path):
            self.content[file.path] = content

    def removed(self, file: File) -> None:
        self.content.pop(file.path, None)

    def _limit(self, path: str) -> int:
        return self._wanted.get(path) or self._wanted.get(f"*{path[path.rfind('.') :]}" if "." in path else "", 0)


def safe_path(raw: bytes) -> str:
    """Decode the path of a file in a data directory.

    Raises:
        Damaged: the path is empty or absolute, is not UTF-8, contains an empty part, ``.``, ``..``, a NUL or another
            control character, or is longer or deeper than any path that the tools write.
    """
    try:
        path = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise Damaged(f"the stream names a file {raw!r}") from None
    name = next((path.removesuffix(end) for end in MADE_UP if path.endswith(end)), path)
    parts = name.split("/")
    good = len(name.encode()) <= MAX_PATH and len(parts) <= MAX_DEPTH and path.isprintable()
    if not good or any(part in {"", ".", ".."} or len(part.encode()) > MAX_PART for part in parts):
        raise Damaged(f"the stream names a file {path!r}")
    return path


def _header_length(header: bytes | bytearray | memoryview) -> int:
    """Return the length of a header that begins with these bytes, or how many bytes are needed to determine it.

    Raises:
        Damaged: no header begins with these bytes.
    """
    have = len(header)
    if bytes(header[: len(MAGIC)]) != MAGIC[:have]:
        raise Damaged("the stream has no chunk where one should be")
    if have < _HEAD.size:
        return _HEAD.size
    _, flags, kind, length = _HEAD.unpack_from(header)
    if kind not in _AFTER_PATH:
        raise Damaged(f"the stream has a chunk of type {kind!r} (flags {flags}), which this release does not know")
    if not 0 < length <= _MAX_LENGTH:
        raise Damaged(f"the stream names a file of {length} bytes")
    fixed: int = _HEAD.size + length + _AFTER_PATH[kind]
    if kind != b"R" or have < fixed:
        return fixed
    new: int = _LENGTH.unpack_from(header, fixed - _LENGTH.size)[0]
    if not 0 < new <= _MAX_LENGTH:
        raise Damaged(f"the stream renames a file to {new} bytes")
    return fixed + new
