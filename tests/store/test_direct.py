"""Files past the page cache: the same bytes as through it, wherever pieces begin and end, and on every file system."""

import errno
import fcntl
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snaphold.store.direct import BLOCK, DirectWriter, block_memory, read_pieces
from tests.support.kernel import under_a_kernel_without_direct_io
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
            assert os.pread(file, len(model) + 1, 0) == model
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


def test_whole_pieces_at_a_block_are_written_at_once(tmp_path: Path) -> None:
    """Whole MiBs of block memory at a block of the file are in the file when ``write`` returns, before a flush."""
    file = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    DirectWriter().write(file, AT_BLOCKS[: 3 << 20], BLOCK)
    assert os.pread(file, 8 << 20, BLOCK) == NOISE[: 3 << 20]
    os.close(file)


@pytest.mark.parametrize(("begin", "position"), [(1, 0), (0, 1)], ids=["memory anywhere", "file anywhere"])
def test_other_pieces_may_change_after_they_were_written(tmp_path: Path, begin: int, position: int) -> None:
    """The caller may reuse its memory once ``write`` has returned: the file gets what was in it at that time."""
    memory = block_memory(2 << 20)
    memory[:] = NOISE[: 2 << 20]
    file = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    writer = DirectWriter()
    writer.write(file, memory[begin : begin + (1 << 20)], position)
    memory[:] = bytes(2 << 20)
    writer.flush()
    assert os.pread(file, 8 << 20, position) == NOISE[begin : begin + (1 << 20)]
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


COPIED = """
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
    done = in_a_file_system("ramfs", tmp_path, COPIED)
    assert done.stdout == "True\n", done.stderr


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP])
def test_a_kernel_that_refuses_the_way_past_the_cache(tmp_path: Path, number: int) -> None:
    """Whichever of its errors the kernel answers O_DIRECT with, the bytes go through the cache."""
    done = under_a_kernel_without_direct_io(number, COPIED, tmp_path)
    assert done.stdout == "True\n", done.stderr


LIMITED = """
import os, resource, sys
from snaphold.store.direct import DirectWriter, block_memory
path, most, aligned = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "True"
noise = block_memory(1 << 20)  # one write
noise[:] = bytes(range(256)) * (len(noise) // 256)
unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (most, unlimited[1]))
writer = DirectWriter()
try:
    writer.write(os.open(path, os.O_WRONLY | os.O_CREAT), noise if aligned else bytes(noise), 0)
    writer.flush()
except OSError as error:
    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    print(error.errno)
"""


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("most", [BLOCK, 300_001])
def test_a_write_that_comes_out_short(tmp_path: Path, most: int, *, aligned: bool) -> None:
    """The kernel takes the part of a write that fits the limit: the rest is written next, and its failure is told.

    A limit within a block is also a length that no way past the cache takes.
    """
    argv = [sys.executable, "-c", LIMITED, str(tmp_path / "file"), str(most), str(aligned)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == (f"{errno.EFBIG}\n", "")
    assert (tmp_path / "file").read_bytes() == (bytes(range(256)) * (most // 256 + 1))[:most]


def test_reads_that_come_out_short() -> None:
    """A read that returns less than was asked for is not the file's end: this file gives a few KiB at a time."""
    names = Path("/proc/kallsyms")
    file = os.open(names, os.O_RDONLY)
    assert len(os.pread(file, 1 << 20, 0)) < BLOCK
    assert b"".join(read_pieces(file, 7, 300_001)) == names.read_bytes()[7:300_001]
    os.close(file)
