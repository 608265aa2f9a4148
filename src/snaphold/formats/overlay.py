"""Materializes a chain: writes the pages of all its increments over the full backup, each page once.

The layers arrive newest first. The result is correct if each increment was taken from its parent's *start* checkpoint:
then every page that changed since is in the increment or in its own redo log, the parents' redo logs are not needed,
and one plain ``--prepare`` completes the directory. The result equals an unprepared full backup of the newest backup's
time:

1. The files that the newest increment contains whole are taken from it: frm, MyISAM, Aria, the redo log, and the tool's
   small files.
2. Its ``.meta`` files list InnoDB's files; a file that is not listed was dropped.
3. The pages of an InnoDB file are found in older layers by the id of its tablespace, because it may have been renamed;
   those of files without a directory (system and undo tablespaces) are found by name.
4. The first page of a file states its length. The file is never shorter than what was written of it.
5. The files that record concurrent DDL (``.ren``, ``.del``, ``.new``) remain for ``--prepare``.
"""

import os
import struct
from dataclasses import dataclass, field
from typing import Final, Protocol

from isal import isal_zlib

from snaphold.errors import Damaged
from snaphold.formats.delta import MAX_META, DeltaReader, Meta, PageSet
from snaphold.formats.files import Tree
from snaphold.formats.xbstream import CHECKPOINT_FILES, File
from snaphold.store.direct import write_all

META: Final = ".meta"
_DELTA: Final = ".delta"
_WHOLE: Final = (".ibd", ".new")  # InnoDB's files that a layer contains whole; .new: created while the backup was taken
INCREMENT_PAGES: Final = (META, _DELTA, *_WHOLE)  # files of an older increment that an overlay reads
_PAGE_HEAD: Final = struct.Struct(">4xI26xII4xI")  # page number, tablespace id; FSP_SPACE_ID, FSP_SIZE
_SMALLEST_FILE: Final = 4  # pages of the server's page size
_AS_FULL: Final = {b"backup_type": b"full-backuped", b"from_lsn": b"0"}
_MAX_CHECKPOINTS: Final = 64 << 10  # bytes


@dataclass(slots=True)
class _Space:
    """A file of InnoDB that the newest increment lists."""

    path: str
    meta: Meta
    taken: PageSet = field(default_factory=PageSet)
    limit: int | None = None  # length in pages, as the first page states it, after that was written


class _Part(Protocol):
    """Processes one file of a layer."""

    def payload(self, offset: int, piece: memoryview) -> None: ...

    def finish(self) -> None: ...

    def close(self) -> None: ...


class Overlay:
    """The files of the result. Call ``layer`` for each stream, the newest first, and then ``finish``."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self._by_path: dict[str, _Space] = {}
        self._by_id: dict[int, _Space] = {}
        self._system_files = 0
        self._gone: set[str] = set()  # files that --prepare replaces or removes

    def layer(self, *, newest: bool, full: bool) -> "OverlayLayer":
        """Return the sink for the next stream."""
        return OverlayLayer(self, newest=newest, full=full)

    def add(self, path: str, meta: Meta) -> None:
        """Add a file that the newest increment lists."""
        space = _Space(path, meta)
        if "/" in path and self._by_id.setdefault(meta.space_id, space) is not space:
            raise Damaged(f"{path} and {self._by_id[meta.space_id].path} are one tablespace, {meta.space_id}")
        self._by_path[path] = space
        self._system_files += meta.space_id == 0
        os.close(self.tree.create(path))

    def find(self, path: str, space_id: int | None) -> _Space | None:
        """Return the file that has this path or id in an older layer; None if it was dropped."""
        if "/" not in path:
            return self._by_path.get(path)
        return None if space_id is None else self._by_id.get(space_id)

    def listed(self, path: str) -> _Space | None:
        """Return the file that has this path in the newest increment, if there is one."""
        return self._by_path.get(path)

    def expect_gone(self, path: str) -> None:
        """Note which file ``--prepare`` will replace or remove because the newest increment contains this one."""
        stem, _, kind = path.rpartition(".")
        if kind in {"new", "del"}:
            self._gone.add(f"{stem}.ibd")

    def note_limits(self) -> None:
        """Note the lengths that the layer has shown. Pages of older layers behind the end of a file are dropped."""
        for space in self._by_path.values():
            if space.limit is None and 0 in space.taken:
                space.limit = self._pages(space)

    def finish(self) -> None:
        """Set the length of every file, and mark the result as a full backup.

        Raises:
            Damaged: no layer contains the first page of a file, or that page belongs to another tablespace.
        """
        smallest = max((space.meta.page_size for space in self._by_path.values()), default=0) * _SMALLEST_FILE
        for space in self._by_path.values():
            pages = self._pages(space)
            descriptor = self.tree.open(space.path)
            try:
                size = max(os.fstat(descriptor).st_size, (pages or 0) * space.meta.page_size, smallest)
                os.ftruncate(descriptor, size)
            finally:
                os.close(descriptor)
        for name in CHECKPOINT_FILES:
            self._call_full(name)

    def _pages(self, space: _Space) -> int | None:
        """Return the length in pages that the first page states; None if it does not state it or does not matter.

        Raises ``Damaged`` when it is not the first page of this tablespace.
        """
        descriptor = self.tree.open(space.path)
        try:
            head = os.pread(descriptor, _PAGE_HEAD.size, 0)
        finally:
            os.close(descriptor)
        if (space.meta.space_id == 0 and self._system_files > 1) or space.path in self._gone:
            return None
        if len(head) < _PAGE_HEAD.size:
            raise Damaged(f"no backup of the chain has the first page of {space.path}")
        number, space_id, header_space_id, pages = _PAGE_HEAD.unpack(head)
        if number or {space_id, header_space_id} != {space.meta.space_id}:
            raise Damaged(f"the first page of {space.path} is not one of tablespace {space.meta.space_id}")
        return int(pages)

    def _call_full(self, name: str) -> None:
        try:
            descriptor = self.tree.open(name)
        except (
            FileNotFoundError,
            IsADirectoryError,
        ):  # a database may have the name that the file has in another release
            return
        try:
            lines = os.pread(descriptor, _MAX_CHECKPOINTS, 0).splitlines()
            pairs = [tuple(part.strip() for part in line.partition(b"=")[::2]) for line in lines]
            text = b"".join(b"%s = %s\n" % (key, _AS_FULL.get(key, value)) for key, value in pairs)
            os.ftruncate(descriptor, 0)
            write_all(descriptor, memoryview(text), 0)
        finally:
            os.close(descriptor)


class OverlayLayer:
    """One stream of the chain; a Sink (:mod:`snaphold.formats.xbstream`)."""

    def __init__(self, overlay: Overlay, *, newest: bool, full: bool) -> None:
        self._overlay, self._newest, self._full = overlay, newest, full
        self._metas: dict[str, Meta] = {}  # by the path of the file
        self._parts: dict[int, _Part] = {}  # by the file's number
        self._crc32 = 0

    def opened(self, file: File) -> None:
        """Choose how to process the file."""
        self._parts[file.number] = self._part(file.path)

    def payload(self, file: File, offset: int, piece: memoryview) -> None:
        """Write the bytes that are needed."""
        self._crc32 = isal_zlib.crc32(piece, self._crc32)
        self._parts[file.number].payload(offset, piece)

    def chunk_ended(self, file: File, crc32: int) -> None:
        """Compare the checksum. Raises ``Damaged`` when it differs."""
        if self._crc32 != crc32:
            raise Damaged(f"a chunk of {file.path} differs from what the backup tool wrote")
        self._crc32 = 0

    def closed(self, file: File) -> None:
        """Check that the file is complete, and close it."""
        part = self._parts[file.number]
        part.finish()
        self._overlay.tree.written()
        del self._parts[file.number]  # if ``finish`` failed, ``close`` still finds it
        part.close()

    def renamed(self, file: File, old_path: str) -> None:
        """Rename a file that the layer contains whole."""
        self._refuse_of_pages(old_path)
        self._refuse_of_pages(file.path)
        if self._newest:
            self._overlay.tree.rename(old_path, file.path)

    def removed(self, file: File) -> None:
        """Remove a file that the layer contains whole."""
        self._refuse_of_pages(file.path)
        if self._newest:
            self._overlay.tree.remove(file.path)

    def close(self) -> None:
        """Close the files. Call it at the end, also after a failure."""
        for part in self._parts.values():
            part.close()
        if all(type(part) is _Nothing for part in self._parts.values()):  # everything that is needed has arrived
            self._overlay.note_limits()

    def note_meta(self, path: str, text: bytes) -> None:
        """Process a complete ``.meta`` file."""
        meta, name = Meta.parse(path, text), path.removesuffix(META)
        self._metas[name] = meta
        if self._newest:
            self._overlay.add(name, meta)

    def _part(self, path: str) -> _Part:
        if not self._full and path.endswith(META):
            return _MetaText(self, path)
        if not self._full and path.endswith(_DELTA):
            return self._delta(path)
        if self._newest:
            self._overlay.expect_gone(path)
            return _WholeFile(self._overlay.tree, path)
        if path.endswith(_WHOLE) or self._overlay.listed(path) is not None:
            return _WholePages(self._overlay, path)
        return _Nothing()

    def _delta(self, path: str) -> _Part:
        name = path.removesuffix(_DELTA)
        meta = self._metas.get(name)
        if meta is None:
            raise Damaged(f"{path} comes before {name}{META}")
        space = self._overlay.listed(name) if self._newest else self._overlay.find(name, meta.space_id)
        if space is None:
            return _Nothing()
        if space.meta.page_size != meta.page_size:
            raise Damaged(f"{name} has pages of {meta.page_size} bytes, and {space.meta.page_size} later")
        return _DeltaPages(path, space, self._overlay.tree)

    @staticmethod
    def _refuse_of_pages(path: str) -> None:
        """Refuse what the tool never does: it renames and removes whole files only."""
        if path.endswith((META, _DELTA)):
            raise Damaged(f"the stream renames, removes or replaces {path}")


class _Nothing:
    """Skips a file."""

    def payload(self, offset: int, piece: memoryview) -> None:
        pass

    def finish(self) -> None:
        pass

    def close(self) -> None:
        pass


class _WholeFile:
    """Writes a file unchanged."""

    def __init__(self, tree: Tree, path: str) -> None:
        self._tree, self._descriptor = tree, tree.create_or_displace(path)

    def payload(self, offset: int, piece: memoryview) -> None:
        self._tree.write(self._descriptor, piece, offset)

    def finish(self) -> None:
        pass

    def close(self) -> None:
        os.close(self._descriptor)


class _MetaText(_Nothing):
    """Collects a ``.meta`` file until it is complete."""

    def __init__(self, layer: OverlayLayer, path: str) -> None:
        self._layer, self._path, self._text = layer, path, bytearray()

    def payload(self, offset: int, piece: memoryview) -> None:
        if offset != len(self._text) or offset + len(piece) > MAX_META:
            raise Damaged(f"{self._path} cannot be understood")
        self._text += piece

    def finish(self) -> None:
        self._layer.note_meta(self._path, bytes(self._text))


class _DeltaPages:
    """Writes the pages of a ``.delta`` file that no newer layer contained."""

    def __init__(self, path: str, space: _Space, tree: Tree) -> None:
        self._path, self._tree, self._descriptor, self._next = path, tree, tree.open(space.path), 0
        self._reader = DeltaReader(path, space.meta.page_size, space.taken, space.limit, self._write)

    def payload(self, offset: int, piece: memoryview) -> None:
        if offset != self._next:
            raise Damaged(f"{self._path} has a hole")
        self._next += len(piece)
        self._reader.feed(piece)

    def finish(self) -> None:
        self._reader.finish()

    def close(self) -> None:
        os.close(self._descriptor)

    def _write(self, piece: memoryview, offset: int) -> None:
        self._tree.write(self._descriptor, piece, offset)


class _WholePages:
    """Writes the pages of a file that an older layer contains whole, except those that a newer layer contained."""

    def __init__(self, overlay: Overlay, path: str) -> None:
        self._overlay, self._path = overlay, path
        self._head = bytearray()  # until the tablespace is known
        self._space: _Space | None = None
        self._descriptor: int | None = None
        self._known = False
        self._end = 0

    def payload(self, offset: int, piece: memoryview) -> None:
        if not self._known:
            if offset != len(self._head):
                self._known = True  # it begins with a hole, so it is no tablespace
                return
            self._head += piece
            if len(self._head) < _PAGE_HEAD.size:
                return
            self._identify()
            offset, piece = 0, memoryview(self._head)
        if self._space is not None:
            self._pages(self._space, offset, piece)

    def finish(self) -> None:
        if self._space is not None:
            self._space.taken.add(0, -(-self._end // self._space.meta.page_size))

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)

    def _identify(self) -> None:
        self._known = True
        self._space = self._overlay.find(self._path, _PAGE_HEAD.unpack_from(self._head)[1])
        if self._space is not None:
            self._descriptor = self._overlay.tree.open(self._space.path)

    def _pages(self, space: _Space, offset: int, piece: memoryview) -> None:
        assert self._descriptor is not None  # noqa: S101 -- opened with the space
        page_size, end = space.meta.page_size, offset + len(piece)
        self._end = max(self._end, end)
        upto = -(-end // page_size)
        if space.limit is not None:
            upto = min(upto, space.limit)
        for first, last in space.taken.missing(offset // page_size, upto):
            start, stop = max(offset, first * page_size), min(end, last * page_size)
            self._overlay.tree.write(self._descriptor, piece[start - offset : stop - offset], start)
