"""Measures the machine's limit: it only compresses the same bytes with the same library on all cores.

python -m bench.limits compress LEVEL < stream        python -m bench.limits decompress < members
"""

import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from snaphold.stream.compress import BLOCK_SIZE, MemberSplitter, compress_block, decompress_member, keep_block_memory


def compressing(stream: Path, level: int) -> float:
    """Seconds to compress a file, whose bytes are in memory already, to nowhere."""
    return _run(stream, "compress", str(level))


def decompressing(members: Path) -> float:
    """Seconds to decompress a file of members to nowhere."""
    return _run(members, "decompress")


def writing(target: Path, size_bytes: int) -> float:
    """Seconds to write and sync so many zeros with ``dd``."""
    began = time.monotonic()
    count = ["bs=1M", f"count={-(-size_bytes // (1 << 20))}", "conv=fdatasync"]
    subprocess.run(["dd", "if=/dev/zero", f"of={target}", *count], check=True, stderr=subprocess.DEVNULL)
    seconds = time.monotonic() - began
    target.unlink()
    return seconds


def copying(source: Path, target: Path) -> float:
    """Seconds to copy a file with ``cp`` and sync it."""
    began = time.monotonic()
    subprocess.run(["cp", source, target], check=True)
    with target.open("rb") as file:
        os.fsync(file.fileno())
    seconds = time.monotonic() - began
    target.unlink()
    return seconds


def _run(source: Path, *words: str) -> float:
    """The program's own time, without the interpreter's start."""
    with source.open("rb") as file:
        said = subprocess.run(
            [sys.executable, "-m", "bench.limits", *words], stdin=file, stdout=subprocess.PIPE, check=True
        )
    return float(said.stdout)


def main(words: list[str]) -> None:
    """Print the seconds."""
    keep_block_memory()
    blocks: Iterator[Any]
    work: Callable[[Any], object]
    if words[0] == "compress":
        level = int(words[1])
        blocks, work = _blocks(), lambda block: compress_block(block, level)
    else:
        blocks, work = _members(), decompress_member
    began = time.monotonic()
    cores = os.cpu_count() or 1
    under_way: deque[Future[object]] = deque()
    with ThreadPoolExecutor(cores) as pool:
        for block in blocks:
            under_way.append(pool.submit(work, block))
            if len(under_way) > 2 * cores + 4:
                under_way.popleft().result()
    sys.stdout.write(f"{time.monotonic() - began}\n")


def _blocks() -> Iterator[memoryview]:
    while block := os.read(0, BLOCK_SIZE):
        yield memoryview(block)


def _members() -> Iterator[bytes | memoryview]:
    splitter = MemberSplitter()
    while piece := os.read(0, BLOCK_SIZE):
        yield from splitter.feed(piece)


if __name__ == "__main__":
    main(sys.argv[1:])
