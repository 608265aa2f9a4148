"""Creates the files of a stream in a directory. Files are always new, and links are never followed."""

import os
import stat
from contextlib import suppress
from typing import Final

from isal import isal_zlib

from snaphold.errors import Damaged
from snaphold.formats.xbstream import DISPLACED, File
from snaphold.store.direct import DirectWriter

_DISPLACED: Final = {path: instead for instead, path in DISPLACED.items()}
_MAX_DIRECTORIES: Final = 256  # open at once


class Tree:
    """Opens and writes files by path. Creates missing directories."""

    def __init__(self, directory: int) -> None:
        self._directories = {"": directory}  # descriptors, by path
        self._writer = DirectWriter()

    def create(self, path: str) -> int:
        """Create a file with mode 0600 and return its descriptor. Raises ``OSError`` when the name exists."""
        directory, name = self.place(path)
        return os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=directory)

    def create_or_displace(self, path: str) -> int:
        """Do as ``create``; but a fact file of the tool gets another name if a database has the same name."""
        try:
            return self.create(path)
        except FileExistsError:
            instead = _DISPLACED.get(path)
            if instead is None or not stat.S_ISDIR(os.stat(path, dir_fd=self._directories[""]).st_mode):
                raise
            return self.create(instead)

    def open(self, path: str) -> int:
        """Open an existing file and return its descriptor."""
        directory, name = self.place(path)
        return os.open(name, os.O_RDWR | os.O_NOFOLLOW, dir_fd=directory)

    def write(self, descriptor: int, piece: memoryview, offset: int) -> None:
        """Write bytes of a file, at the latest when ``written`` is called."""
        self._writer.write(descriptor, piece, offset)

    def written(self) -> None:
        """Complete all writes. Call it before a file is read or closed."""
        self._writer.flush()

    def place(self, path: str) -> tuple[int, str]:
        """Return the descriptor of a path's directory, valid until the next call, and the name in it."""
        self._forget_directories()
        return self._place(path)

    def rename(self, old_path: str, path: str) -> None:
        """Rename a file, and replace any file of the new path."""
        self._forget_directories()
        old_directory, old_name = self._place(old_path)
        directory, name = self._place(path)
        os.rename(old_name, name, src_dir_fd=old_directory, dst_dir_fd=directory)

    def remove(self, path: str) -> None:
        """Remove a file."""
        directory, name = self.place(path)
        os.unlink(name, dir_fd=directory)

    def close(self) -> None:
        """Close the descriptors of all directories."""
        for descriptor in self._directories.values():
            os.close(descriptor)

    def _forget_directories(self) -> None:
        """Close the directories if they are many: a server may have more databases than the limit of open files."""
        if len(self._directories) > _MAX_DIRECTORIES:
            for path in [path for path in self._directories if path]:
                os.close(self._directories.pop(path))

    def _place(self, path: str) -> tuple[int, str]:
        above, _, name = path.rpartition("/")
        if above not in self._directories:
            parent, last = self._place(above)
            with suppress(FileExistsError):  # if it is a directory, it is opened next
                os.mkdir(last, 0o700, dir_fd=parent)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
            self._directories[above] = os.open(last, flags, dir_fd=parent)
        return self._directories[above], name


class WholeFiles:
    """Writes the files of a stream; a Sink (:mod:`snaphold.formats.xbstream`)."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._open: dict[int, int] = {}  # descriptors, by the file's number
        self._crc32 = 0

    def opened(self, file: File) -> None:
        """Create the file."""
        self._open[file.number] = self._tree.create_or_displace(file.path)

    def payload(self, file: File, offset: int, piece: memoryview) -> None:
        """Write the bytes."""
        self._crc32 = isal_zlib.crc32(piece, self._crc32)
        self._tree.write(self._open[file.number], piece, offset)

    def chunk_ended(self, file: File, crc32: int) -> None:
        """Compare the checksum. Raises ``Damaged`` when it differs."""
        if self._crc32 != crc32:
            raise Damaged(f"a chunk of {file.path} differs from what the backup tool wrote")
        self._crc32 = 0

    def closed(self, file: File) -> None:
        """Close the file."""
        self._tree.written()
        os.close(self._open.pop(file.number))

    def renamed(self, file: File, old_path: str) -> None:
        """Rename the file."""
        self._tree.rename(old_path, file.path)

    def removed(self, file: File) -> None:
        """Remove the file."""
        self._tree.remove(file.path)

    def close(self) -> None:
        """Close the files that an interrupted stream left open."""
        for descriptor in self._open.values():
            os.close(descriptor)
