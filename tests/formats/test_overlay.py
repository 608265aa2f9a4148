"""Increments' pages laid over a full backup: the newest of each page, once, and a refusal of whatever is not whole."""

import io
import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snaphold.errors import Damaged
from snaphold.formats.delta import DeltaReader, Meta, PageSet
from snaphold.formats.index import Index, IndexedMember
from snaphold.formats.manifest import DataFacts, IndexFacts, Manifest, sha256_of
from snaphold.formats.xbstream import Watch
from snaphold.objects import data_name, index_name
from snaphold.stream import extractor
from snaphold.stream.compress import BLOCK_SIZE
from snaphold.stream.extract import extract_backup
from snaphold.stream.segments import write_backup
from tests.fakes.memory_store import MemoryStore
from tests.stream.backups import SEGMENT, manifest_of
from tests.stream.xb import INFO, end, head, payload, whole
from tests.support.members import member_of
from tests.support.mounts import in_a_file_system

PAGE = 1024  # bytes: the smallest there is
FULL_CLUSTER = PAGE // 4 - 1  # pages
SPACE = 7


def page(number: int, mark: int, *, space_id: int = SPACE, pages: int = 8) -> bytes:
    """A page as InnoDB has it, as far as anybody here looks: the first one tells of the file."""
    head = struct.pack(">IIQQHQI", 0, number, 0, mark, 0, 0, space_id)
    first = struct.pack(">III", space_id, 0, pages) if number == 0 else b""
    return (head + first).ljust(PAGE, bytes([mark % 251 + 1]))


def delta(pages: dict[int, bytes]) -> bytes:
    """A ``.delta`` as the tool writes it."""
    numbers, text = list(pages), b""
    while True:
        some, numbers = numbers[:FULL_CLUSTER], numbers[FULL_CLUSTER:]
        last = len(some) < FULL_CLUSTER
        mark = b"XTRA" if last else b"xtra"
        header = mark + struct.pack(f">{len(some)}I", *some) + (b"\xff\xff\xff\xff" if last else b"")
        text += header.ljust(PAGE, b"\0") + b"".join(pages[number] for number in some)
        if last:
            return text


def meta(space_id: int = SPACE) -> bytes:
    """The ``.meta`` beside it."""
    return b"page_size = %d\nzip_size = 0 \nspace_id = %d\n" % (PAGE, space_id)


def increment(pages: dict[int, bytes], name: str = "db/t.ibd", *more: bytes) -> bytes:
    """A stream with one file of InnoDB."""
    return whole(f"{name}.meta", meta()) + whole(f"{name}.delta", delta(pages)) + b"".join(more) + INFO


def laid(streams: list[bytes], target: Path, wanted: dict[int, int] | None = None) -> dict[str, bytes]:
    """Lay streams, the newest first, as the extracting process does; the files that are there then.

    ``wanted``: how many bytes of a stream are wanted, by its place; all of the others.
    """
    source, sizes = os.memfd_create("streams"), list[extractor.Layer]()
    try:
        for stream in streams:
            blocks = [stream[at : at + BLOCK_SIZE] for at in range(0, len(stream), BLOCK_SIZE)]
            wanted_bytes = (wanted or {}).get(len(sizes), len(stream))
            members = [member_of(block) for block in blocks[: -(-wanted_bytes // BLOCK_SIZE)]]
            sizes.append(extractor.Layer(os.write(source, b"".join(members)), len(stream), wanted_bytes))
        os.lseek(source, 0, os.SEEK_SET)
        extractor.materialize_chain(source, os.open(target, os.O_RDONLY), sizes, 2, lambda _: None)
    finally:
        os.close(source)
    return {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()}


numbers = st.sets(st.one_of(st.integers(0, 40), st.integers(0, 3000)), max_size=600)


@settings(deadline=None, max_examples=60)
@given(first=numbers, second=numbers, cuts=st.lists(st.integers(1, 5000), min_size=1, max_size=8))
def test_each_page_is_the_newest(first: set[int], second: set[int], cuts: list[int]) -> None:
    """However the bytes come in pieces, each page of a delta is written where it belongs, unless a newer one was."""
    written: dict[int, bytes] = {}

    def write(piece: memoryview, offset: int) -> None:
        written.update({offset + at: bytes(piece[at : at + 1]) for at in range(0, len(piece), PAGE // 4)})

    taken = PageSet()
    for mark, wanted in ((1, first), (2, second)):
        pages = {number: page(number, mark) for number in sorted(wanted)}
        reader, text = DeltaReader("t.delta", PAGE, taken, None, write), memoryview(delta(pages))
        turn = 0
        while text:
            size = cuts[turn % len(cuts)] * (PAGE // 4)
            reader.feed(text[:size])
            text, turn = text[size:], turn + 1
        reader.finish()

    expected = {}
    for number in first | second:
        content = page(number, 1 if number in first else 2)
        expected.update({number * PAGE + at: content[at : at + 1] for at in range(0, PAGE, PAGE // 4)})
    assert written == expected
    assert all(number in taken for number in first | second)


@given(added=st.lists(st.tuples(st.integers(0, 9000), st.integers(0, 300))), asked=st.integers(0, 9000))
def test_a_set_of_pages(added: list[tuple[int, int]], asked: int) -> None:
    """What is missing from it is what was never added, in runs, in order."""
    pages, expected = PageSet(), set[int]()
    for start, count in added:
        pages.add(start, start + count)
        expected |= set(range(start, start + count))
    missing = [number for start, upto in pages.missing(asked, asked + 5000) for number in range(start, upto)]
    assert missing == [number for number in range(asked, asked + 5000) if number not in expected]


def test_a_chain_is_laid(tmp_path: Path) -> None:
    """Pages are found by tablespace, whatever the file was called; what was dropped is gone; whole files are newest."""
    full = [page(number, 1) for number in range(8)]
    files = laid(
        [
            increment({0: page(0, 3), 5: page(5, 3)}, "db/new_name.ibd", whole("db/t.frm", b"new")),
            increment({2: page(2, 2), 5: page(5, 2)}, "db/old_name.ibd", whole("db/t.frm", b"old")),
            b"".join([
                whole("db/t.ibd", b"".join(full)),
                whole("db/dropped.ibd", page(0, 1, space_id=9)),
                whole("db/gone.frm", b"gone"),
                INFO,
            ]),
        ],
        tmp_path,
    )  # fmt: skip
    expected = [page(0, 3), full[1], page(2, 2), full[3], full[4], page(5, 3), *full[6:]]
    assert sorted(files) == ["db/new_name.ibd", "db/t.frm", "xtrabackup_info"]
    assert files["db/new_name.ibd"] == b"".join(expected)
    assert files["db/t.frm"] == b"new"


def test_what_is_not_wanted_is_passed_over(tmp_path: Path) -> None:
    """An older increment's whole files come last and cost nothing; it is cut behind the files that are wanted."""
    older = increment(
        {number: page(number, 2) for number in range(1, 8)}, "db/t.ibd", whole("db/m.MYD", bytes(3 << 20))
    )
    end_of_pages = older.index(head(b"P", b"db/m.MYD"))
    files = laid([increment({0: page(0, 3)}), older, FULL], tmp_path, {1: end_of_pages})
    assert files["db/t.ibd"] == page(0, 3) + b"".join(page(number, 2) for number in range(1, 8))


def test_a_file_that_became_shorter(tmp_path: Path) -> None:
    """What older layers have behind the end that the newest first page names is not there any more."""
    full = b"".join(page(number, 1, pages=12) for number in range(12))
    files = laid([increment({0: page(0, 2, pages=5)}), whole("db/t.ibd", full) + INFO], tmp_path)
    assert len(files["db/t.ibd"]) == 5 * PAGE


def test_the_whole_is_called_full(tmp_path: Path) -> None:
    """The tool prepares what says that it is a full backup; every other position stays."""
    says = b"backup_type = incremental\nfrom_lsn = 5\nto_lsn = 7\nlast_lsn = 8\n"
    files = laid(
        [
            increment({0: page(0, 2)}, "db/t.ibd", whole("xtrabackup_checkpoints", says)),
            whole("db/t.ibd", page(0, 1)) + INFO,
        ],
        tmp_path,
    )
    assert files["xtrabackup_checkpoints"] == b"backup_type = full-backuped\nfrom_lsn = 0\nto_lsn = 7\nlast_lsn = 8\n"


GOOD = delta({0: page(0, 2), 3: page(3, 2)})
FULL = whole("db/t.ibd", b"".join(page(number, 1) for number in range(8))) + INFO
META = whole("db/t.ibd.meta", meta())
BAD = payload("db/t.ibd.delta", GOOD, 0)[:-9] + b"123456789"
BROKEN = {
    "no first page": ([META + INFO, whole("db/other.ibd", page(0, 1, space_id=9)) + INFO], "has the first page of"),
    "another's first page": ([increment({0: page(0, 2, space_id=8)}), FULL], "is not one of tablespace 7"),
    "delta without meta": ([whole("db/t.ibd.delta", GOOD) + INFO, FULL], r"comes before db/t.ibd.meta"),
    "cut delta": ([META + whole("db/t.ibd.delta", GOOD[:-1]) + INFO, FULL], "ends before its last cluster"),
    "cut header": ([META + whole("db/t.ibd.delta", GOOD[:100]) + INFO, FULL], "ends before its last cluster"),
    "long delta": ([META + whole("db/t.ibd.delta", GOOD + b"x") + INFO, FULL], "behind its last cluster"),
    "no delta": ([META + whole("db/t.ibd.delta", b"\0" * PAGE) + INFO, FULL], "has no cluster of pages"),
    "nonsense": ([whole("db/t.ibd.meta", b"page_size = x") + INFO, FULL], "cannot be understood"),
    "odd pages": ([whole("db/t.ibd.meta", b"page_size = 3000\nspace_id = 1") + INFO, FULL], "pages of 3000 bytes"),
    "huge meta": ([whole("db/t.ibd.meta", b"x" * 5000) + INFO, FULL], "cannot be understood"),
    "one tablespace twice": ([META + whole("db/u.ibd.meta", meta()) + INFO, FULL], "are one tablespace, 7"),
    "replaced meta": ([META + whole("db/t.ibd.meta", meta(), flags=2) + INFO, FULL], "renames, removes or replaces"),
    "a file outside": ([whole("../t.ibd.meta", meta()) + INFO, FULL], "names a file"),
    "bad checksum": ([META + BAD + end("db/t.ibd.delta") + INFO, FULL], "differs from what"),
    "cut newest": ([META, FULL], "without the file that the tool writes last"),
    "cut full": ([increment({0: page(0, 2)}), FULL[:-50]], "ends"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_a_chain_that_is_not_whole_is_refused(what: str, tmp_path: Path) -> None:
    """Each layer is as hostile as any stream: what it says of pages must fit together, and outside is out of reach."""
    streams, reason = BROKEN[what]
    with pytest.raises(Damaged, match=reason):
        laid(streams, tmp_path)


FULL_DISK = """
import sys
from pathlib import Path
from tests.formats.test_overlay import FULL, increment, laid, page
target = Path(sys.argv[1])
(target / "db").mkdir()
try:
    with (target / "filling").open("wb") as file:
        while True:
            file.write(bytes(4096))
            file.flush()
except OSError:
    pass
try:
    laid([increment({0: page(0, 3)}), FULL], target)
except OSError as error:
    print(error.strerror)
"""


def test_a_full_disk_says_nothing_against_the_backup(tmp_path: Path) -> None:
    """Pages that could not be written for lack of space are not pages that the chain lacks."""
    done = in_a_file_system("tmpfs", tmp_path, FULL_DISK, "-o size=256k", cwd=Path(__file__).parents[2])
    assert done.stdout == "No space left on device\n", done.stderr


def stored(store: MemoryStore, number: int, stream: bytes, change: Callable[[Index], Index]) -> Manifest:
    """A backup of this stream whose index was made another one, and is vouched for all the same."""
    content, backup_id = io.BytesIO(stream), f"0000000{number}-0000-4000-8000-000000000000"
    name = data_name(backup_id, "gz")
    written = write_backup(
        content.readinto, store, f"{name}/", level=1, watch=Watch(), kill=lambda: None, segment_size=SEGMENT
    )
    store.publish(
        name, f"{name}/", len(written.segments), size_bytes=written.size_bytes, segment_size=written.segment_size
    )
    index = change(Index.decode(written.index)).encode()
    store.put(index_name(backup_id), index)
    return manifest_of(written).model_copy(
        update={
            "data": DataFacts(name=name, size_bytes=written.size_bytes, segment_size=written.segment_size),
            "index": IndexFacts(name=index_name(backup_id), size_bytes=len(index), sha256=sha256_of(index)),
        }
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda index: replace(index, block_size=0),
        lambda index: replace(index, segment_size=1 << 30),
        lambda index: replace(index, stream_bytes=0),
        lambda index: replace(index, members=[IndexedMember(9, 0, 5)]),
    ],
    ids=["block size", "segment size", "stream", "members"],
)
def test_an_index_of_something_else(tmp_path: Path, change: Callable[[Index], Index]) -> None:
    """Where an increment's index does not fit its data object, the restore says so and reads nothing of it."""
    store = MemoryStore()
    streams = [FULL, increment({0: page(0, 2)}), increment({0: page(0, 3)})]
    changes = [lambda index: index, change, lambda index: index]
    chain = [stored(store, n, s, c) for n, (s, c) in enumerate(zip(streams, changes, strict=True))]
    with pytest.raises(Damaged, match=r"00000001-.*\.index is of"):
        extract_backup(chain, store, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_page_far_away_takes_no_memory() -> None:
    """The number of a page costs nothing but what it is: a hostile one cannot fill the memory."""
    pages = PageSet()
    pages.add((1 << 32) - 2, (1 << 32) - 1)
    assert list(pages.missing((1 << 32) - 3, 1 << 32)) == [((1 << 32) - 3, (1 << 32) - 2), ((1 << 32) - 1, 1 << 32)]
    assert Meta.parse("t.meta", meta()) == Meta(PAGE, SPACE)
