"""Members: independent, self-describing, and together one stream that the standard tools read."""

import gzip
import random
import subprocess
import tracemalloc
from itertools import pairwise

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from snaphold.errors import Damaged
from snaphold.formats.manifest import CodecName
from snaphold.stream.compress import BLOCK_SIZE, MemberSplitter, decompress_member
from tests.stream.xb import cut_anyhow
from tests.support.members import member_of

LEVELS = [0, 1, 2, 3]
CODEC_NAMES: list[CodecName] = ["gzip", "zstd"]
either_codec = pytest.mark.parametrize("codec", CODEC_NAMES)


def split(*pieces: bytes) -> list[bytes]:
    """The members of a stream that comes in these pieces."""
    splitter = MemberSplitter()
    members = [bytes(member) for piece in pieces for member in splitter.feed(piece)]
    splitter.finish()
    return members


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", ["zeros", "noise", "text", "empty", "one byte"])
def test_members_are_plain_gzip(level: int, kind: str) -> None:
    """``gzip -dc`` reads members in a row as one stream; each comes apart again, to the same bytes."""
    block = {
        "zeros": bytes(BLOCK_SIZE),
        "noise": random.Random(1).randbytes(BLOCK_SIZE),
        "text": b"to be or not to be " * 50_000,
        "empty": b"",
        "one byte": b"1",
    }[kind]
    member = member_of(block, level)
    stream = member * 2
    plain = subprocess.run(["gzip", "-dc"], input=stream, capture_output=True, check=True).stdout
    assert plain == gzip.decompress(stream) == block * 2
    assert [decompress_member(part) for part in split(stream)] == [block] * 2


@pytest.mark.parametrize("level", [1, 3, 19])
@pytest.mark.parametrize("block", [bytes(BLOCK_SIZE), b"", b"1", b"to be or not to be " * 50_000], ids=len)
def test_members_are_plain_zstd(level: int, block: bytes) -> None:
    """Zstandard's own reader reads members in a row as one stream; each comes apart again, to the same bytes."""
    member = member_of(block, level, "zstd")
    stream = member * 2
    with zstandard.ZstdDecompressor().stream_reader(stream, read_across_frames=True) as reader:
        assert reader.read() == block * 2
    assert [decompress_member(part) for part in split(stream)] == [block] * 2


@given(blocks=st.lists(st.binary(max_size=200), max_size=6), data=st.data(), codec=st.sampled_from(CODEC_NAMES))
def test_members_come_apart_however_they_are_read(blocks: list[bytes], data: st.DataObject, codec: CodecName) -> None:
    """Boundaries are found in pieces of any size."""
    members = [member_of(block, codec=codec) for block in blocks]
    assert split(*data.draw(cut_anyhow(b"".join(members)))) == members


@given(data=st.data(), codec=st.sampled_from(CODEC_NAMES))
def test_any_flip_is_found(data: st.DataObject, codec: CodecName) -> None:
    """A member with any one bit changed is refused, or decompresses to the same bytes (bits that mean nothing)."""
    block = b"some bytes that repeat, some bytes that do not: " * 20
    member = bytearray(member_of(block, codec=codec))
    bit = data.draw(st.integers(0, len(member) * 8 - 1))
    member[bit // 8] ^= 1 << bit % 8
    try:
        blocks = [decompress_member(part) for part in split(bytes(member))]
    except Damaged:
        return
    assert blocks == [block]


@either_codec
def test_a_cut_is_found(codec: CodecName) -> None:
    """A stream that ends inside a member is refused; no bytes at all are no member."""
    stream = member_of(b"1" * 1000, codec=codec) * 3
    ends = {len(stream) * n // 3 for n in range(4)}
    for length in range(len(stream) + 1):
        if length in ends:
            assert len(split(stream[:length])) == length * 3 // len(stream)
        else:
            with pytest.raises(Damaged):
                split(stream[:length])


@pytest.mark.parametrize(
    "stream",
    [gzip.compress(b"1", mtime=0), zstandard.compress(b"1"), b"trailing garbage of any kind", bytes(100)],
    ids=["a plain member", "a plain frame", "garbage", "zeros"],
)
def test_what_is_no_member_of_ours(stream: bytes) -> None:
    """Foreign gzip and zstd, text and zeros behind a member are refused."""
    with pytest.raises(Damaged):
        split(member_of(b"1") + stream)


@either_codec
def test_a_member_is_at_most_a_little_longer_than_its_block(codec: CodecName) -> None:
    """What cannot be compressed still makes members that the splitter takes."""
    noise = random.Random(2).randbytes(4 * BLOCK_SIZE)
    for start, end in pairwise(range(0, len(noise) + 1, BLOCK_SIZE)):
        data = member_of(memoryview(noise)[start:end], codec=codec)
        assert split(data) == [data]


@either_codec
def test_a_member_that_expands_without_end(codec: CodecName) -> None:
    """A member that would become more than a block is refused before it has cost more memory than a block."""
    bomb = member_of(bytes(500 << 20), codec=codec)
    assert len(bomb) < 1 << 20
    tracemalloc.start()
    try:
        with pytest.raises(Damaged):
            decompress_member(bomb)
        assert tracemalloc.get_traced_memory()[1] < 4 * BLOCK_SIZE
    finally:
        tracemalloc.stop()
