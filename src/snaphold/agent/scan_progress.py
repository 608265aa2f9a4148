"""How much of an instance's data a running increment has read."""

from pathlib import Path

from snaphold.disk import file_used_bytes
from snaphold.formats.xbstream import File, Watch


class ScanProgress:
    """Counts the bytes of the source files that an increment's stream has completed.

    The stream has only the changed pages of each file, but the tool reads every page to find them.
    """

    def __init__(self, data: Path, watch: Watch) -> None:
        self._data = data
        self._watch = watch
        self._seen = 0  # how many files of the stream were looked at
        self._open: list[File] = []  # those of them that were not complete
        self._bytes = 0

    def bytes(self) -> int:
        """Return the count so far. This is cheap: a file that was counted is not looked at again."""
        files = [*self._open, *self._watch.files[self._seen :]]
        self._seen = len(self._watch.files)
        self._open = [file for file in files if not file.complete]
        self._bytes += sum(self._source_bytes(file) for file in files if file.complete)
        return self._bytes

    def _source_bytes(self, file: File) -> int:
        """The size of the file of the source that this file of the stream comes from; 0 if there is none."""
        return file_used_bytes(self._data, file.path.removesuffix(".delta"))
