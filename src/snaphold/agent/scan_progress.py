"""How much of an instance a running increment has looked at."""

from pathlib import Path

from snaphold.disk import file_used_bytes
from snaphold.formats.xbstream import File, Watch


class ScanProgress:
    """How much of a data directory an increment's stream stands for so far: the files that it has all there is of.

    The stream has only the changed pages of each file, but the tool reads every page to find them.
    """

    def __init__(self, data: Path, watch: Watch) -> None:
        self._data = data
        self._watch = watch
        self._seen = 0  # files of the stream
        self._open: list[File] = []  # those of them that are not complete
        self._bytes = 0

    def bytes(self) -> int:
        """So much by now. Cheap: what was counted is not looked at again."""
        files = [*self._open, *self._watch.files[self._seen :]]
        self._seen = len(self._watch.files)
        self._open = [file for file in files if not file.complete]
        self._bytes += sum(self._source_bytes(file) for file in files if file.complete)
        return self._bytes

    def _source_bytes(self, file: File) -> int:
        """What the file takes that ``<file>.delta`` is of; any other one is a file itself, or stands for none."""
        return file_used_bytes(self._data, file.path.removesuffix(".delta"))
