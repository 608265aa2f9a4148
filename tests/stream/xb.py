"""Makes xbstreams, good ones and others."""

import struct
import zlib
from itertools import pairwise

from hypothesis import strategies as st


def head(kind: bytes, path: bytes, flags: int = 0) -> bytes:
    """What every chunk starts with."""
    return b"XBSTCK01" + bytes([flags]) + kind + struct.pack("<I", len(path)) + path


def payload(path: str, data: bytes, offset: int = 0, flags: int = 0) -> bytes:
    """A chunk of a file's bytes."""
    return head(b"P", path.encode(), flags) + struct.pack("<QQI", len(data), offset, zlib.crc32(data)) + data


def seek(path: str, offset: int, flags: int = 0) -> bytes:
    """A hole up to this offset."""
    return head(b"S", path.encode(), flags) + struct.pack("<Q", offset)


def end(path: str, flags: int = 0) -> bytes:
    """The end of a file."""
    return head(b"E", path.encode(), flags)


def rename(old: str, new: str) -> bytes:
    """Another path for a complete file."""
    return head(b"R", old.encode()) + struct.pack("<I", len(new.encode())) + new.encode()


def remove(path: str) -> bytes:
    """A complete file goes."""
    return head(b"D", path.encode())


def whole(path: str, data: bytes, flags: int = 0) -> bytes:
    """A file in one chunk."""
    return payload(path, data, 0, flags) + end(path, flags)


INFO = whole("xtrabackup_info", b"tool_version = 10.11\n")


@st.composite
def streams(draw: st.DrawFn, *, largest: int = 3000) -> tuple[list[bytes], dict[str, bytes]]:
    """The chunks of a good stream, those of several files mixed, and the files that are in it."""
    names = draw(st.lists(st.sampled_from(["a.ibd", "db/t.ibd", "db/u.MYD", "x/y/z", "ib_logfile0"]), unique=True))
    files = {name: draw(st.binary(max_size=largest)) for name in names}
    rows = []
    for name, data in files.items():
        cuts = sorted({0, len(data), *draw(st.lists(st.integers(0, len(data)), max_size=4))})
        row = [payload(name, data[at:to], at) for at, to in pairwise(cuts)]
        rows.append([*row, end(name)])
    chunks = []
    while any(rows):
        row = draw(st.sampled_from([row for row in rows if row]))
        chunks.append(row.pop(0))
    files["xtrabackup_info"] = b"tool_version = 10.11\n"
    return [*chunks, INFO], files


@st.composite
def cut_anyhow(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """The same bytes in pieces of any size."""
    cuts = sorted({0, len(data), *draw(st.lists(st.integers(0, len(data)), max_size=30))})
    return [data[at:to] for at, to in pairwise(cuts)]
