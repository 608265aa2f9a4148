"""Whatever is missing in an xbstream is found, however its bytes come."""

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snaphold.errors import Damaged
from snaphold.formats.xbstream import MAX_OPEN, Chunk, Watch, XbstreamReader, safe_path
from tests.stream.xb import INFO, cut_anyhow, end, head, payload, remove, rename, seek, streams, whole

WANTED = {"xtrabackup_info": 64 << 10, "backup-my.cnf": 64 << 10, "ib_logfile0": 0x3000, "*.frm": 4, "*.ibd": 38}


def read(*pieces: bytes) -> Watch:
    """A stream that was fed to its end."""
    watch = Watch(WANTED)
    for piece in pieces:
        watch.feed(piece)
    watch.finish()
    return watch


def present(reader: XbstreamReader) -> dict[str, int]:
    """The files that are left, and their sizes."""
    return {file.path: file.size_bytes for file in reader.files if file.present}


@given(made=streams(), data=st.data())
def test_a_stream_reads_the_same_however_it_is_cut(
    made: tuple[list[bytes], dict[str, bytes]], data: st.DataObject
) -> None:
    """Files, chunks and captured bytes do not depend on where reads end; each chunk points at its bytes."""
    chunks, files = made
    stream = b"".join(chunks)
    watch = read(*data.draw(cut_anyhow(stream)))
    assert watch.position == len(stream)
    assert present(watch) == {path: len(content) for path, content in files.items()}
    assert watch.chunks == read(stream).chunks
    rebuilt = {path: bytearray() for path in files}
    for chunk in watch.chunks:
        path = watch.files[chunk.file].path
        assert chunk.offset == len(rebuilt[path])
        rebuilt[path] += stream[chunk.stream_offset : chunk.stream_offset + chunk.length]
    assert rebuilt == files
    limits = {path: WANTED.get(path) or WANTED.get(f"*{Path(path).suffix}") for path in files}
    assert watch.captured == {path: content[: limits[path]] for path, content in files.items() if limits[path]}


@given(made=streams(largest=50), data=st.data())
def test_a_stream_that_was_cut_anywhere(made: tuple[list[bytes], dict[str, bytes]], data: st.DataObject) -> None:
    """No beginning of a stream passes for the whole: inside a chunk, at a chunk's end, at a file's end."""
    stream = b"".join(made[0])
    kept = data.draw(st.integers(0, len(stream) - 1))
    with pytest.raises(Damaged):
        read(stream[:kept])


@given(made=streams(largest=50), data=st.data())
def test_a_stream_that_lost_a_chunk(made: tuple[list[bytes], dict[str, bytes]], data: st.DataObject) -> None:
    """A lost chunk is found, but for the last payload of a file (which the length of the stream tells)."""
    chunks, _ = made
    lost = data.draw(st.integers(0, len(chunks) - 1))
    rest = chunks[:lost] + chunks[lost + 1 :]
    path = chunks[lost][14 : 14 + struct.unpack_from("<I", chunks[lost], 10)[0]]
    later = [chunk for chunk in chunks[lost + 1 :] if chunk[14 : 14 + len(path)] == path]
    if chunks[lost][9:10] == b"P" and len(later) == 1:
        assert read(*rest).position < len(b"".join(chunks))
    elif chunks[lost][9:10] == b"E" and not any(chunk[14 : 14 + len(path)] == path for chunk in chunks[:lost]):
        assert path.decode() not in present(read(*rest))  # an empty file without its only chunk: the same
    else:
        with pytest.raises(Damaged):
            read(*rest)


BROKEN: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "without the file that the tool writes last"),
    "no info file": (whole("a", b"1"), "without the file that the tool writes last"),
    "more after the info file": (INFO + whole("a", b"1"), "without the file that the tool writes last"),
    "a file without its end": (payload("a", b"1") + INFO, "before a is complete"),
    "trailing byte": (INFO + b"Y", "ends inside a chunk"),
    "trailing zeros": (INFO + bytes(512), "no chunk where one should be"),
    "the start of a header": (INFO + b"XBST", "ends inside a chunk"),
    "cut in the last header": (INFO[:-1], "ends inside a chunk"),
    "a file twice": (whole("a", b"1") + whole("a", b"1") + INFO, "a comes twice"),
    "an end twice": (whole("a", b"1") + end("a") + INFO, "a comes twice"),
    "a lost first payload": (payload("a", b"1", 1) + end("a") + INFO, "a goes on at byte 1 instead of 0"),
    "an overlap": (payload("a", b"12") + payload("a", b"3", 1) + end("a") + INFO, "goes on at byte 1 instead of 2"),
    "a gap": (payload("a", b"12") + payload("a", b"3", 3) + end("a") + INFO, "goes on at byte 3 instead of 2"),
    "a seek back": (payload("a", b"12") + seek("a", 1) + end("a") + INFO, "a goes back from byte 2 to 1"),
    "an open file renamed": (payload("a", b"1") + rename("a", "b") + end("a") + INFO, "before it is complete"),
    "an open file removed": (payload("a", b"1") + remove("a") + INFO, "before it is complete"),
    "an open file replaced": (whole("b", b"") + payload("a", b"1") + rename("b", "a") + INFO, "before it is complete"),
    "an unknown type": (head(b"X", b"a") + INFO, "type b'X'"),
    "an unknown type that may be ignored": (head(b"X", b"a", 1) + INFO, "type b'X'"),
    "no path": (head(b"P", b"") + INFO, "a file of 0 bytes"),
    "a long path": (head(b"P", b"a" * 518), "a file of 518 bytes"),
    "a long new path": (whole("a", b"1") + rename("a", "b" * 518), "renames a file to 518 bytes"),
    "many open files": (b"".join(payload(f"f{n}", b"1") for n in range(MAX_OPEN + 1)), "256 files are written at once"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_no_good_stream(what: str) -> None:
    """What is wrong with a stream is said."""
    stream, reason = BROKEN[what]
    with pytest.raises(Damaged, match=reason):
        read(stream)


BAD_PATHS = [
    "/etc/passwd", "..", "../a", "a/../../b", "a/..", "a//b", "a/", "./a", "a/./b", "a\0b", "a\nb", "\x7f", "a\u2028b",
    "x" * 256, "/".join("abcdefghi"),
]  # fmt: skip


@pytest.mark.parametrize("path", BAD_PATHS, ids=ascii)
def test_a_path_that_leads_elsewhere(path: str) -> None:
    """A hostile name is refused wherever it stands."""
    streams_with_it = [payload(path, b"1"), end(path), seek(path, 1), remove(path), rename(path, "a")]
    for stream in [*streams_with_it, whole("a", b"1") + rename("a", path)]:
        with pytest.raises(Damaged, match="the stream names a file"):
            read(stream, INFO)


@given(st.binary(max_size=600))
def test_a_safe_path_stays_inside(raw: bytes) -> None:
    """Any bytes: either refused, or a relative path whose parts all lead down."""
    try:
        path = safe_path(raw)
    except Damaged:
        return
    assert path.encode() == raw
    assert len(raw) <= 511 + len(".delta")
    assert all(part not in {"", ".", ".."} for part in path.split("/"))
    assert "\0" not in path


@given(st.binary(max_size=200), st.data())
def test_no_bytes_make_it_stumble(noise: bytes, data: st.DataObject) -> None:
    """Whatever follows a good chunk, the answer is Damaged or a good stream."""
    stream = bytearray(whole("a", b"123") + INFO)
    at = data.draw(st.integers(0, len(stream)))
    stream[at : at + data.draw(st.integers(0, len(noise)))] = noise
    try:
        read(bytes(stream))
    except Damaged:
        return


def test_files_that_are_renamed_removed_and_replaced() -> None:
    """What is left is what mbstream leaves; a rename or removal of what was never there is no harm."""
    watch = read(
        whole("a", b"12"),
        rename("a", "db/b"),
        whole("a", b"345"),
        whole("c", b"6"),
        remove("c"),
        remove("nothing"),
        rename("nothing", "d"),
        whole("d", b"7"),
        whole("e", b"8901"),
        rename("e", "d"),
        whole("a", b"X", flags=2),
        INFO,
    )
    assert present(watch) == {"db/b": 2, "a": 1, "d": 4, "xtrabackup_info": 21}


def test_a_file_with_holes() -> None:
    """A seek leaves a hole; a hole at the end has no bytes."""
    watch = read(seek("a", 4), payload("a", b"12", 4), seek("a", 100), end("a"), INFO)
    assert present(watch)["a"] == 6
    assert (watch.chunks[0].offset, watch.chunks[0].length) == (4, 2)


def test_empty_files_and_payloads() -> None:
    """A file may have no payload, or empty ones; neither is a chunk of the index."""
    watch = read(end("a"), payload("b", b""), end("b"), INFO)
    assert present(watch) == {"a": 0, "b": 0, "xtrabackup_info": 21}
    assert watch.chunks == [Chunk(2, 0, len(end("a") + payload("b", b"") + end("b")) + 14 + 15 + 20, 21)]


@pytest.mark.parametrize(
    "first", ["old.MYD", "old.MYI", "old.ARZ", "old.CSV", "all.MRG", "t.frm", "made.ibd.new", "was.ren", "gone.del"]
)
def test_when_writers_wait(first: str) -> None:
    """Tables without transactions are copied when nobody writes to them, definitions when nobody makes tables."""
    watch = Watch()
    watch.feed(whole("shop/t.ibd", b"1") + whole("shop/t.ibd.delta", b"1") + whole("mysql/db.MAD", b"1"))
    assert (watch.writers_wait, watch.commits_wait) == (False, False)
    watch.feed(whole(f"shop/{first}", b"1") + whole("shop/u.MAD", b"1"))
    assert (watch.writers_wait, watch.commits_wait) == (True, False)


def test_when_commits_wait() -> None:
    """The contents of the server's logs in tables are the first of what the tool copies while commits wait."""
    watch = Watch()
    watch.feed(whole("mysql/slow_log.frm", b"1") + whole("mysql/t.CSV", b"1"))
    assert not watch.commits_wait
    watch.feed(whole("mysql/slow_log.CSM", b"1"))
    assert (watch.writers_wait, watch.commits_wait) == (True, True)


def test_only_the_beginning_of_a_captured_file() -> None:
    """Of the redo log just the header is kept, also across chunks; a renamed or replaced capture is the last one's."""
    log = bytes(range(256)) * 100
    watch = read(payload("ib_logfile0", log[:5000]), payload("ib_logfile0", log[5000:], 5000), end("ib_logfile0"), INFO)
    assert watch.captured["ib_logfile0"] == log[:0x3000]
    watch = read(whole("x", b"1"), whole("ib_logfile0", b"2"), rename("ib_logfile0", "backup-my.cnf"), INFO)
    assert watch.captured == {"backup-my.cnf": b"2", "xtrabackup_info": b"tool_version = 10.11\n"}
    watch = read(whole("backup-my.cnf", b"1"), whole("backup-my.cnf", b"2", flags=2), INFO)
    assert watch.captured["backup-my.cnf"] == b"2"
