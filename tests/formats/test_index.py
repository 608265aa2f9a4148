"""The index reads back as it was written, and says where the bytes are."""

import gzip
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snaphold.errors import Damaged
from snaphold.formats.index import Index, IndexedFile, IndexedMember
from snaphold.formats.xbstream import Chunk, File

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
INDEXES = st.builds(
    Index,
    block_size=U32,
    segment_size=U32,
    stream_bytes=U64,
    files=st.lists(st.builds(IndexedFile, st.text(max_size=100), U64, st.booleans(), U64), max_size=5),
    chunks=st.lists(st.builds(Chunk, U32, U64, U64, U32), max_size=5),
    members=st.lists(st.builds(IndexedMember, U32, U32, U32), max_size=5),
)


@given(INDEXES)
def test_an_index_reads_back(index: Index) -> None:
    """decode is the inverse of encode, whose bytes depend on nothing but the index."""
    assert Index.decode(index.encode()) == index
    assert Index.decode(index.encode()).encode() == index.encode()


@given(INDEXES)
def test_an_index_of_the_first_form(index: Index) -> None:
    """There files had no end, which may be anywhere then; and each member had the start of its SHA-256 behind it."""
    raw = gzip.decompress(index.encode())
    at, files = 36, b""
    for file in index.files:
        fixed, path = raw[at : at + 19], file.path.encode()
        files += fixed[:8] + fixed[16:] + path
        at += 19 + len(path)
    end = len(raw) - 12 * len(index.members)
    members = b"".join(raw[start : start + 12] + bytes(16) for start in range(end, len(raw), 12))
    first = b"SNAPIDX1" + raw[8:36] + files + raw[at:end] + members
    expected = [replace(file, end=index.stream_bytes) for file in index.files]
    assert Index.decode(gzip.compress(first)) == replace(index, files=expected)


@given(INDEXES, st.data())
def test_an_index_that_was_cut_or_changed(index: Index, data: st.DataObject) -> None:
    """Bytes that are no index are refused, never misread in another way than as an index of other content."""
    raw = gzip.decompress(index.encode())
    cut = data.draw(st.integers(0, len(raw) - 1))
    for broken in (b"", index.encode()[:-1], gzip.compress(raw[:cut]), gzip.compress(raw + b"1"), raw):
        with pytest.raises(Damaged):
            Index.decode(broken)


@given(st.binary(max_size=100))
def test_no_bytes_make_it_stumble(noise: bytes) -> None:
    """Anything that is no index is Damaged."""
    for data in (noise, gzip.compress(noise), gzip.compress(b"SNAPIDX1" + noise), gzip.compress(b"SNAPIDX2" + noise)):
        try:
            Index.decode(data)
        except Damaged:
            continue


def test_members_are_placed_in_segments() -> None:
    """A member's place follows from the lengths before it; it may reach into the next segment."""
    index = Index.of(
        block_size=10,
        segment_size=100,
        stream_bytes=40,
        files=[File(0, "a", 5, complete=True, present=False, end=9)],
        chunks=[Chunk(0, 1, 2, 3)],
        members=[60, 60, 80, 1],
    )
    assert [(m.segment, m.offset, m.length) for m in index.members] == [(0, 0, 60), (0, 60, 60), (1, 20, 80), (2, 0, 1)]
    assert index.files == [IndexedFile("a", 5, False, 9)]


@given(st.data())
def test_where_a_position_is(data: st.DataObject) -> None:
    """``upto`` counts the whole members that hold the stream before a position, and nothing before any."""
    lengths = data.draw(st.lists(st.integers(1, 30), max_size=9))
    index = Index.of(
        block_size=10, segment_size=16, stream_bytes=10 * len(lengths), files=[], chunks=[], members=lengths
    )
    position = data.draw(st.integers(0, 10 * len(lengths)))
    assert index.upto(position) == sum(lengths[: (position + 9) // 10])


def test_a_payload_of_more_than_four_gib() -> None:
    """A chunk whose length needs more than 32 bits becomes several."""
    whole = Chunk(1, 7, 50, (5 << 30) + 3)
    index = Index.of(block_size=1, segment_size=1, stream_bytes=1, files=[], chunks=[whole], members=[])
    parts = Index.decode(index.encode()).chunks
    assert [part.offset - 7 for part in parts] == [part.stream_offset - 50 for part in parts] == [0, 2**32 - 1]
    assert sum(part.length for part in parts) == whole.length
