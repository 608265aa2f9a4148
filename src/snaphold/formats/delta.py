"""Reads the changed pages of an InnoDB file that an increment contains.

``<file>.meta`` is text with one ``key = number`` in each line: ``page_size``, ``zip_size`` and ``space_id``. The page
size is that of the file, which for ROW_FORMAT=COMPRESSED is smaller than the server's. ``<file>.delta`` is a sequence
of clusters. Numbers are big-endian. Source: mariabackup 10.11.19.

    "xtra", or "XTRA" in the last cluster    u32 page numbers, up to 0xFFFFFFFF or the end of this first page
    the pages, in the order of their numbers; every cluster but the last has page_size / 4 - 1 pages
"""

import sys
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from snaphold.errors import Damaged

MAX_META: Final = 4096  # bytes
MIN_PAGE_SIZE: Final = 1024
MAX_PAGE_SIZE: Final = 65536
_GOES_ON: Final = b"xtra"
_IS_LAST: Final = b"XTRA"
_NO_PAGE: Final = 0xFFFFFFFF
_BLOCK: Final = 4096  # pages whose marks share one array

Write = Callable[[memoryview, int], None]  # bytes, and their position in the file


@dataclass(frozen=True, slots=True)
class Meta:
    """The facts that an increment records about a file."""

    page_size: int  # bytes
    space_id: int

    @classmethod
    def parse(cls, path: str, text: bytes) -> "Meta":
        """Parse the text of a ``.meta`` file. Raises ``Damaged``."""
        pairs = (line.partition("=") for line in text.decode(errors="replace").splitlines())
        values = {key.strip(): value.strip() for key, _, value in pairs}
        try:
            page_size, space_id = int(values["page_size"]), int(values["space_id"])
        except (KeyError, ValueError) as error:
            raise Damaged(f"{path} cannot be understood") from error
        power_of_two = page_size & (page_size - 1) == 0
        if not (MIN_PAGE_SIZE <= page_size <= MAX_PAGE_SIZE and power_of_two and 0 <= space_id < _NO_PAGE):
            raise Damaged(f"{path} tells of pages of {page_size} bytes in tablespace {space_id}")
        return cls(page_size, space_id)


class PageSet:
    """A set of page numbers. Its memory depends on how many numbers it contains, not on how large they are."""

    def __init__(self) -> None:
        self._blocks: dict[int, bytearray] = {}

    def __contains__(self, number: int) -> bool:
        block = self._blocks.get(number // _BLOCK)
        return block is not None and block[number % _BLOCK] == 1

    def add(self, start: int, end: int) -> None:
        """Add the pages from ``start`` up to ``end``."""
        while start < end:
            base = start - start % _BLOCK
            upto = min(end, base + _BLOCK)
            block = self._blocks.setdefault(base // _BLOCK, bytearray(_BLOCK))
            block[start - base : upto - base] = b"\1" * (upto - start)
            start = upto

    def missing(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield the runs of pages from ``start`` up to ``end`` that are not in the set."""
        while start < end:
            base = start - start % _BLOCK
            upto = min(end, base + _BLOCK)
            block = self._blocks.get(base // _BLOCK)
            if block is None:
                yield start, upto
            else:
                at = start - base
                while (first := block.find(0, at, upto - base)) >= 0:
                    at = block.find(1, first, upto - base)
                    if at < 0:
                        at = upto - base
                    yield base + first, base + at
            start = upto


class DeltaReader:
    """Reads a ``.delta`` file in pieces, writes its pages to their positions, and records their numbers.

    ``taken``: the pages that are there already; they are passed over, and what is written is added. Pages from
    ``limit`` on are passed over as well.
    """

    def __init__(self, path: str, page_size: int, taken: PageSet, limit: int | None, write: Write) -> None:
        self._path, self._page_size, self._taken, self._limit, self._write = path, page_size, taken, limit, write
        self._header = bytearray()
        self._moves: list[tuple[int, int, int]] = []  # of this cluster: start, end, and the position in the file
        self._move = 0  # the first one that is not complete
        self._at = 0  # bytes of this cluster's pages that have arrived
        self._size = 0  # bytes of all pages of this cluster
        self._last = False  # whether this is the last cluster

    def feed(self, piece: memoryview) -> None:
        """Process the next bytes. Raises ``Damaged``."""
        while piece:
            if self._at == self._size:
                if self._last:
                    raise Damaged(f"{self._path} goes on behind its last cluster")
                taken = piece[: self._page_size - len(self._header)]
                self._header += taken
                piece = piece[len(taken) :]
                if len(self._header) == self._page_size:
                    self._begin_cluster()
            else:
                part = piece[: self._size - self._at]
                self._pages(part)
                piece = piece[len(part) :]

    def finish(self) -> None:
        """Check that the file is complete. Raises ``Damaged``."""
        if not self._last or self._header or self._at != self._size:
            raise Damaged(f"{self._path} ends before its last cluster does")

    def _begin_cluster(self) -> None:
        mark = bytes(self._header[:4])
        if mark not in {_GOES_ON, _IS_LAST}:
            raise Damaged(f"{self._path} has no cluster of pages where one should be")
        numbers = array("I", bytes(self._header[4:]))
        if sys.byteorder == "little":
            numbers.byteswap()
        self._header.clear()
        self._last = mark == _IS_LAST
        count = len(numbers)
        if self._last:
            with_end = numbers.index(_NO_PAGE) if _NO_PAGE in numbers else count
            count = with_end
        elif _NO_PAGE in numbers:
            raise Damaged(f"{self._path} has a cluster that is not full, but not the last")
        self._at, self._size, self._move = 0, count * self._page_size, 0
        self._moves = list(self._plan(numbers, count))

    def _plan(self, numbers: "array[int]", count: int) -> Iterator[tuple[int, int, int]]:
        """Yield the moves of this cluster: runs of pages that are adjacent both here and in the file."""
        page_size, index = self._page_size, 0
        while index < count:
            first = numbers[index]
            length = 1
            while index + length < count and numbers[index + length] == first + length:
                length += 1
            end = first + length if self._limit is None else min(first + length, max(first, self._limit))
            for start, upto in list(self._taken.missing(first, end)):
                begin = index + start - first
                yield begin * page_size, (begin + upto - start) * page_size, start * page_size
                self._taken.add(start, upto)
            index += length

    def _pages(self, part: memoryview) -> None:
        """Write the needed part of these bytes of the cluster's pages."""
        begin, end = self._at, self._at + len(part)
        while self._move < len(self._moves):
            source, upto, target = self._moves[self._move]
            if source >= end:
                break
            start = max(source, begin)
            self._write(part[start - begin : min(upto, end) - begin], target + start - source)
            if upto > end:
                break
            self._move += 1
        self._at = end
