"""Files past the page cache: the same bytes as through it, wherever pieces begin and end, and on every file system."""

import ctypes
import errno
import fcntl
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snaphold.store.direct import BLOCK, DirectWriter, block_memory, read_pieces
from tests.support.mounts import in_a_file_system

NOISE = os.urandom(5 << 20)
AT_BLOCKS = block_memory(len(NOISE))
AT_BLOCKS[:] = NOISE
SIZES = st.one_of(
    st.integers(1, 3 * BLOCK),
    st.integers(1, 70).map(lambda count: count * BLOCK),
    st.integers(1, 3).map(lambda count: count << 20),
    st.integers(1, 3 << 20),
)
WHEREVER = pytest.mark.parametrize("piece", [NOISE, AT_BLOCKS], ids=["anywhere", "at blocks"])
WRITES = st.tuples(st.integers(0, 1), st.one_of(st.none(), SIZES), SIZES, st.booleans())


@settings(deadline=None, max_examples=60)
@given(
    writes=st.lists(WRITES, min_size=1, max_size=12),
    start=st.integers(0, 2 << 20),
    length=st.integers(0, 5 << 20),
)
def test_as_a_file_is(writes: list[tuple[int, int | None, int, bool]], start: int, length: int) -> None:
    """Two files, written in turns from anywhere or one behind the other, hold what they would hold; so do ranges."""
    models, ends = [bytearray(), bytearray()], [0, 0]
    with tempfile.TemporaryDirectory() as directory:
        files = [os.open(f"{directory}/{name}", os.O_RDWR | os.O_CREAT) for name in "ab"]
        writer = DirectWriter()
        for number, jump, size, at_block in writes:
            position = ends[number] if jump is None else jump
            memory = AT_BLOCKS if at_block else memoryview(NOISE)
            model, piece = models[number], memory[position % BLOCK :][:size]
            model.extend(bytes(max(0, position + len(piece) - len(model))))
            model[position : position + len(piece)] = piece
            writer.write(files[number], piece, position)
            ends[number] = position + len(piece)
        writer.flush()
        for file, model in zip(files, models, strict=True):
            assert os.pread(file, 8 << 20, 0) == model
            assert b"".join(read_pieces(file, start, start + length)) == model[start : start + length]
            os.close(file)


def test_a_descriptor_is_as_it_was(tmp_path: Path) -> None:
    """Whoever uses the same descriptor afterwards goes through the cache as before."""
    file = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    flags = fcntl.fcntl(file, fcntl.F_GETFL)
    writer = DirectWriter()
    writer.write(file, NOISE, 0)
    writer.flush()
    assert b"".join(read_pieces(file, 0, len(NOISE))) == NOISE
    assert fcntl.fcntl(file, fcntl.F_GETFL) == flags
    os.close(file)


def test_what_lies_at_a_block_is_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole pieces of block memory at a block of the file are written from where they are; what else is, is not."""
    plain, written = os.pwrite, []

    def pwrite(file: int, piece: memoryview, position: int) -> int:
        written.append((ctypes.addressof(ctypes.c_char.from_buffer(piece)), position))
        return plain(file, piece, position)

    monkeypatch.setattr(os, "pwrite", pwrite)
    file = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    writer, first = DirectWriter(), ctypes.addressof(ctypes.c_char.from_buffer(AT_BLOCKS))
    writer.write(file, AT_BLOCKS[: 3 << 20], BLOCK)
    assert written == [(first + at, BLOCK + at) for at in range(0, 3 << 20, 1 << 20)]
    written.clear()
    writer.write(file, AT_BLOCKS[1 : 1 + (1 << 20)], 0)
    writer.write(file, AT_BLOCKS[: 1 << 20], 1)
    writer.flush()
    assert not any(first <= address < first + len(AT_BLOCKS) for address, _ in written)
    assert os.pread(file, 8 << 20, 0) == NOISE[1:2] + NOISE[: 1 << 20] + NOISE[(1 << 20) + 1 - BLOCK : 3 << 20]
    os.close(file)


def is_cached(file: int, position: int) -> bool:
    """Whether a block of a file can be read without asking the disk."""
    try:
        return bool(os.preadv(file, [bytearray(BLOCK)], position, os.RWF_NOWAIT))
    except BlockingIOError:
        return False


@WHEREVER
def test_no_page_of_the_cache_is_taken(tmp_path: Path, piece: bytes | memoryview) -> None:
    """What was written and read in whole blocks is not in the cache; the same written plainly is."""
    file = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.pwrite(file, NOISE, 0)
    os.fsync(file)
    assert is_cached(file, 0)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    if is_cached(file, 0):
        pytest.skip("the temporary directory lies in memory")
    writer = DirectWriter()
    writer.write(file, piece, 0)
    writer.flush()
    os.fsync(file)
    assert b"".join(read_pieces(file, 0, len(NOISE))) == NOISE
    assert not any(is_cached(file, position) for position in range(0, len(NOISE) - BLOCK, 1 << 20))
    os.close(file)


ANYWHERE = """
import os, sys
from snaphold.store.direct import DirectWriter, read_pieces
noise = os.urandom(3 << 20)
file = os.open(sys.argv[1] + "/file", os.O_RDWR | os.O_CREAT)
writer = DirectWriter()
writer.write(file, noise, 5)
writer.flush()
print(b"".join(read_pieces(file, 5, 5 + len(noise))) == noise)
"""


def test_a_file_system_that_has_only_the_cache(tmp_path: Path) -> None:
    """Where there is no way past the cache, the bytes go through it."""
    done = in_a_file_system("ramfs", tmp_path, ANYWHERE)
    assert done.stdout == "True\n", done.stderr


def written(path: Path, piece: bytes | memoryview) -> bytes:
    """All of a new file that has this piece at its start."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT)
    writer = DirectWriter()
    writer.write(file, piece, 0)
    writer.flush()
    os.close(file)
    return path.read_bytes()


@WHEREVER
@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP])
def test_a_file_system_with_other_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, piece: bytes | memoryview
) -> None:
    """Where the way past the cache takes none of ours, the bytes go through it."""
    plain = os.pwrite

    def pwrite(file: int, data: bytes, position: int) -> int:
        if fcntl.fcntl(file, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(number, "no")
        return plain(file, data, position)

    monkeypatch.setattr(os, "pwrite", pwrite)
    assert written(tmp_path / "file", piece) == NOISE


@pytest.mark.parametrize("most", [BLOCK, 300_001])
@WHEREVER
def test_writes_that_come_out_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: bytes | memoryview, most: int
) -> None:
    """A write that takes less than it was given is gone on with, wherever it ended."""
    plain = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, position: plain(file, data[:most], position))
    assert written(tmp_path / "file", piece) == NOISE


def test_reads_that_come_out_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read that returns less than was asked for is not the file's end."""
    plain = os.preadv
    monkeypatch.setattr(os, "preadv", lambda file, views, position: plain(file, [views[0][:300_001]], position))
    (tmp_path / "file").write_bytes(NOISE)
    file = os.open(tmp_path / "file", os.O_RDONLY)
    assert b"".join(read_pieces(file, 7, len(NOISE))) == NOISE[7:]
    os.close(file)
