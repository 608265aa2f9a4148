"""Reads the xbstream format as its bytes go by, and finds every way in which a stream can be incomplete.

A stream is a row of chunks (all numbers little-endian; as mbstream of MariaDB 10.11.19 reads them):

    "XBSTCK01"  u8 flags  u8 type  u32 length of path  path
        type P, payload:  u64 length  u64 offset in the file  u32 CRC-32 of the payload  payload
        type S, seek:     u64 offset in the file, from which the next payload goes on (a hole before it)
        type E:           nothing; the file is complete
        type R, rename:   u32 length of new path  new path
        type D, remove:   nothing
    flags: 1 is for chunks of unknown type, which are refused here; 2 the file replaces a complete one of this path

Chunks of several files may alternate. mbstream itself exits with 0 when a stream ends at any chunk boundary, when a
file is never completed, and when a file cannot be created: none of that is good enough for a backup.
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
MADE_UP: Final = (".meta", ".delta")  # what an increment puts behind a file's name: such a file need never be made
MAX_DEPTH: Final = 8
MAX_OPEN: Final = 256  # files that may be incomplete at once; the tool has as many as it has threads
_NOTHING: Final[Mapping[str, int]] = MappingProxyType({})
_PREFIXES: Final = ("xtrabackup_", "mariadb_backup_")  # of the tool's own files, until and since MariaDB 11
LAST_FILES: Final = frozenset(f"{prefix}info" for prefix in _PREFIXES)
CHECKPOINT_FILES: Final = tuple(f"{prefix}checkpoints" for prefix in _PREFIXES)
FACT_FILES: Final = LAST_FILES | {  # which the tool leaves for people: neither --prepare nor a server reads them
    f"{prefix}{name}" for prefix in _PREFIXES for name in ("binlog_info", "galera_info", "slave_info")
}
DISPLACED: Final = {f"{name}.file": name for name in FACT_FILES}  # where a database, which has no dot, has that name
TOOL_FILES: Final = FACT_FILES.union(  # regular files beside the databases; whatever else is there is the customer's
    CHECKPOINT_FILES,
    DISPLACED,
    (f"{prefix}binlog_pos_innodb" for prefix in _PREFIXES),
    ("backup-my.cnf", "ib_buffer_pool"),
)

_WHILE_COMMITS_WAIT: Final = ("mysql/general_log.CS", "mysql/slow_log.CS")  # the server's logs in tables are first then
_NOT_TRANSACTIONAL: Final = (".MYD", ".MYI", ".MRG", ".ARZ", ".ARM", ".CSV", ".CSM")  # from BACKUP STAGE FLUSH on
_DEFINITIONS: Final = (".frm", ".new", ".ren", ".del")  # and what was made or changed meanwhile: from BLOCK_DDL on

_MAX_LENGTH: Final = MAX_PATH + max(map(len, MADE_UP))  # bytes
_HEAD = struct.Struct("<8sBcI")
_PAYLOAD = struct.Struct("<QQI")
_SEEK = struct.Struct("<Q")
_LENGTH = struct.Struct("<I")
_AFTER_PATH: Final = {b"P": _PAYLOAD.size, b"S": _SEEK.size, b"E": 0, b"R": _LENGTH.size, b"D": 0}  # by type


@dataclass(slots=True)
class File:
    """One file of a stream. A file that is replaced later is a file of its own."""

    number: int  # in the order of first chunks, from 0
    path: str  # as it is now
    size_bytes: int = 0
    complete: bool = False
    present: bool = True  # False once it was removed or replaced
    position: int = 0  # where its next payload goes on
    end: int = 0  # where in the stream its last chunk ends, once it is complete


@dataclass(frozen=True, slots=True)
class Chunk:
    """Where a payload is: ``length`` bytes of a file from ``offset``, and of the stream from ``stream_offset``."""

    file: int
    offset: int
    stream_offset: int
    length: int


class Sink(Protocol):
    """What is told of a stream as it goes by, in its order. Payload comes in pieces, as the stream does."""

    def opened(self, file: File) -> None:
        """The first chunk of a file. One that it replaces has ``closed`` and ``removed`` behind it."""

    def payload(self, file: File, offset: int, piece: memoryview) -> None:
        """Some of a file's bytes. The view is good during the call only."""

    def chunk_ended(self, file: File, crc32: int) -> None:
        """A payload has come whole; ``crc32`` is what the stream says of it."""

    def closed(self, file: File) -> None:
        """The file is complete."""

    def renamed(self, file: File, old_path: str) -> None:
        """A complete file has another path now; what was there before is replaced."""

    def removed(self, file: File) -> None:
        """A complete file is none of the stream's any more."""


class XbstreamReader:
    """An incremental reader: feed it the stream in pieces of any size, in order, then ``finish``.

    Only headers are looked at: the cost is a few microseconds a chunk, of which there are some 300 in a GB.
    """

    def __init__(self, sink: Sink | None = None) -> None:
        self.files: list[File] = []
        self.chunks: list[Chunk] = []  # payloads in the stream's order, without empty ones
        self.position = 0  # bytes of the stream that were fed
        self._sink = sink
        self._paths: dict[str, File] = {}  # those that are present
        self._open = 0
        self._last: File | None = None
        self._pending = bytearray()  # the beginning of a header
        self._payload: File | None = None  # the file whose payload is going by
        self._remaining = 0  # bytes of that payload
        self._crc32 = 0

    def feed(self, data: memoryview | bytes) -> None:
        """Look at the next bytes.

        Raises:
            Damaged: this is no xbstream, or one that must not be trusted; nothing more may be fed then.
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
        """The stream has ended.

        A payload that is missing at a file's very end cannot be seen here; the length of the stream, which the
        manifest keeps, tells.

        Raises:
            Damaged: it is not whole: cut inside a chunk, a file never completed, or its last file, which the tool
                writes when all else is done, is missing.
        """
        if self._pending or self._payload is not None:
            raise Damaged(f"the stream ends inside a chunk, at byte {self.position}")
        for file in self.files:
            if not file.complete:
                raise Damaged(f"the stream ends before {file.path} is complete")
        if self._last is None or self._last.path not in LAST_FILES:
            raise Damaged("the stream ends without the file that the tool writes last")

    def _feed_header(self, view: memoryview) -> int:
        """Take what a header still lacks; returns the bytes taken. A complete one is acted on."""
        need = _header_length(self._pending)
        taken = min(need - len(self._pending), len(view))
        self._pending += view[:taken]
        if len(self._pending) == need == _header_length(self._pending):
            header = bytes(self._pending)
            self._pending.clear()
            self._act(header, self.position + taken)
        return taken

    def _act(self, header: bytes, end: int) -> None:
        """Do what a whole header says. ``end``: where it ends in the stream."""
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
        """The file that a chunk belongs to: one that is being written, or a new one."""
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
        """The complete file to be renamed or removed; None: it was never in the stream, which is no harm."""
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
    """Reads a stream on its way to the store, and keeps the beginnings of a few small files.

    ``wanted``: the paths of these files, or ``*`` and the end of such paths, and how many bytes of each are kept in
    ``captured``.
    """

    def __init__(self, wanted: Mapping[str, int] = _NOTHING) -> None:
        self._capture = _Capture(wanted)
        super().__init__(self._capture)

    @property
    def captured(self) -> dict[str, bytes]:
        """What was kept so far."""
        return {path: bytes(content) for path, content in self._capture.content.items()}

    @property
    def writers_wait(self) -> bool:
        """Whether the tool has begun what it copies from ``BACKUP STAGE FLUSH`` on: nobody writes to MyISAM then.

        Aria tables without transactions, which are copied then too, look like those that are copied before.
        """
        return self._capture.writers_wait

    @property
    def commits_wait(self) -> bool:
        """Whether the tool has begun what it copies last, under ``BACKUP STAGE BLOCK_COMMIT``: nobody commits then."""
        return self._capture.commits_wait


class _Capture:
    """The sink that keeps the beginnings of some files."""

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
        if offset >= self._most:  # nearly all of the stream
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
    """Return the path of a file in a data directory.

    Raises:
        Damaged: it is empty, absolute, has a part that is empty, ``.`` or ``..``, a NUL or another control character,
            is longer or deeper than any the tools write, or is no UTF-8.
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
    """How long the header that starts like this is, as far as can be told from what is there.

    Raises:
        Damaged: it is no header.
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
