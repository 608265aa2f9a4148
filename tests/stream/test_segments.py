"""From a stream to segments and back: whole and verified, or not at all, and nothing is left running."""

import gzip
import hashlib
import itertools
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from snaphold.errors import Damaged, ObjectMissing, Permanent, Superseded, Transient
from snaphold.formats.index import Index
from snaphold.formats.manifest import Manifest
from snaphold.formats.xbstream import Watch
from snaphold.objects import SEGMENT_SIZE
from snaphold.store.base import ObjectStore
from snaphold.store.local import LocalStores
from snaphold.store.retrying import Retrying, RetryPolicy
from snaphold.stream.compress import BLOCK_SIZE, decompress_member
from snaphold.stream.process import Tool, ToolStream
from snaphold.stream.segments import IN_FLIGHT, Written, discard, read_backups, write_backup
from tests.fakes.memory_store import Fault, MemoryStore
from tests.stream.backups import NAME, PREFIX, SEGMENT, AnyStream, manifest_of, taken
from tests.stream.xb import INFO, cut_anyhow, end, payload, streams, whole

NOISE = random.Random(1).randbytes(6 * BLOCK_SIZE)


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """No thread outlives a call, however it ends."""
    before = set(threading.enumerate())
    yield
    left = [thread for thread in set(threading.enumerate()) - before if thread.name != "spawner"]
    assert left == []


@pytest.fixture
def memory() -> MemoryStore:
    """The store of these tests."""
    return MemoryStore()


def reader(pieces: list[bytes]) -> Callable[[memoryview], int]:
    """A source that yields these pieces, and splits those that do not fit."""
    rest = [memoryview(piece) for piece in pieces if piece]

    def read(buffer: memoryview) -> int:
        if not rest:
            return 0
        piece = rest.pop(0)
        count = min(len(piece), len(buffer))
        buffer[:count] = piece[:count]
        if piece[count:]:
            rest.insert(0, piece[count:])
        return count

    return read


def write(store: ObjectStore, stream: bytes, **more: object) -> Written:
    """Write a stream that comes whole."""
    arguments: dict[str, object] = {"level": 1, "threads": 2, "watch": Watch(), "kill": lambda: None}
    arguments |= {"segment_size": SEGMENT, **more}
    return write_backup(reader([stream]), store, PREFIX, **arguments)  # type: ignore[arg-type]


BIG = whole("a", NOISE) + whole("b", bytes(3 << 20)) + INFO


@settings(deadline=None, max_examples=30)
@given(
    made=streams(),
    big=st.sampled_from([b"", whole("big", NOISE)]),
    how=st.tuples(st.integers(0, 3), st.integers(1, 3)),
    size=st.sampled_from([700_001, SEGMENT, 2_500_001]),
    data=st.data(),
)
def test_what_is_written_is_what_was_read(
    made: tuple[list[bytes], dict[str, bytes]], big: bytes, how: tuple[int, int], size: int, data: st.DataObject
) -> None:
    """However reads end: the object is the stream, plainly gzipped; hashes, sizes and index are of these bytes."""
    chunks, _ = made
    level, threads = how
    stream = big + b"".join(chunks)
    store, watch, told = MemoryStore(), Watch(), list[int]()
    written = write_backup(
        reader(data.draw(cut_anyhow(stream))),
        store,
        PREFIX,
        level=level,
        threads=threads,
        watch=watch,
        kill=lambda: pytest.fail("killed a good stream"),
        on_progress=told.append,
        segment_size=size,
    )
    store.publish(NAME, PREFIX, len(written.segments), size_bytes=written.size_bytes, segment_size=written.segment_size)
    content = store.objects[NAME]
    assert gzip.decompress(content) == stream
    assert (written.stream_bytes, told[-1]) == (len(stream), len(stream))
    assert written.size_bytes == len(content)
    parts = [content[at : at + size] for at in range(0, len(content), size)]
    assert [segment.sha256 for segment in written.segments] == [hashlib.sha256(p).hexdigest() for p in parts]
    index = Index.decode(written.index)
    assert (index.block_size, index.segment_size, index.stream_bytes) == (BLOCK_SIZE, size, len(stream))
    assert index.chunks == watch.chunks
    for number, member in enumerate(index.members):
        at = member.segment * size + member.offset
        data_of_member = content[at : at + member.length]
        assert decompress_member(data_of_member) == stream[number * BLOCK_SIZE : (number + 1) * BLOCK_SIZE]


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_a_segment_that_ends_inside_a_header(codec: str) -> None:
    """A member may begin with the last bytes of a segment: its header goes on in the next one."""
    first = Index.decode(write(MemoryStore(), BIG, codec=codec).index).members[0].length
    size = first + 11
    store = MemoryStore()
    written = write(store, BIG, codec=codec, segment_size=size)
    store.publish(NAME, PREFIX, len(written.segments), size_bytes=written.size_bytes, segment_size=written.segment_size)
    members = Index.decode(written.index).members
    starts = [member.segment * size + member.offset for member in members]
    assert starts[:2] == [0, first]
    content = store.objects[NAME]
    blocks = [decompress_member(content[at : at + m.length]) for at, m in zip(starts, members, strict=True)]
    assert b"".join(blocks) == BIG


def test_the_last_upload_fails_after_the_tool_ended_well(memory: MemoryStore) -> None:
    """A tool that exited 0 does not make good what the store refused: the store's error comes out."""
    count = len(write(memory, BIG).segments)
    store = MemoryStore()
    store.faults = [Fault("put_segment", Permanent("the store has no space left"), first=count, last=count)]
    with pytest.raises(Permanent, match="no space left"):
        write(store, BIG)
    discard(store, PREFIX)
    assert store.objects == {}


def test_an_early_upload_failure_ends_the_tool(memory: MemoryStore, tmp_path: Path) -> None:
    """When the store fails, a tool that would go on for ever is killed, and the store's error is the reason."""
    memory.faults = [Fault("put_segment", Permanent("the store refused"))]
    endless = Tool(argv=["/bin/sh", "-c", "cat /dev/urandom"], messages=tmp_path / "messages")
    with ToolStream(endless) as stream, pytest.raises(Permanent, match="the store refused"):
        write_backup(
            stream.readinto, memory, PREFIX, level=1, watch=AnyStream(), kill=stream.kill, segment_size=SEGMENT
        )


def test_a_tool_that_fails_late(memory: MemoryStore, tmp_path: Path) -> None:
    """The whole stream came, the tool even says so, and exits 1: that is a failure."""
    (tmp_path / "stream").write_bytes(BIG)
    tool = Tool(
        argv=["/bin/sh", "-c", "cat stream; echo 'completed OK!' >&2; exit 1"],
        messages=tmp_path / "messages",
        cwd=tmp_path,
    )
    with ToolStream(tool) as stream, pytest.raises(Permanent, match="exit status 1"):
        write_backup(stream.readinto, memory, PREFIX, level=1, watch=Watch(), kill=stream.kill, segment_size=SEGMENT)


@pytest.mark.parametrize("what", ["silent", "busy"])
def test_a_stop_while_the_tool_runs(memory: MemoryStore, tmp_path: Path, what: str) -> None:
    """A stop ends the tool, whether it is silent or busy, and everything else, at once."""
    script = {"silent": "echo $$ >&2; exec sleep 1000", "busy": "echo $$ >&2; exec cat /dev/zero"}[what]
    messages, stop = tmp_path / "messages", threading.Event()
    timer = threading.Timer(0.2, stop.set)
    timer.start()
    began = time.monotonic()
    with (
        ToolStream(Tool(argv=["/bin/sh", "-c", script], messages=messages)) as stream,
        pytest.raises(Superseded, match="the backup was stopped"),
    ):
        write_backup(
            stream.readinto,
            memory,
            PREFIX,
            level=1,
            watch=AnyStream(),
            kill=stream.kill,
            stop=stop,
            segment_size=SEGMENT,
        )
    assert time.monotonic() - began < 10
    assert not Path(f"/proc/{int(messages.read_text())}").exists()
    timer.join()


def blocks_read_before(store: MemoryStore, *, commits_wait: bool) -> int:
    """How many blocks a store that takes nothing lets through, until the reading waits."""
    watch, store.gate, read = AnyStream(), threading.Event(), list[int]()
    watch.commits_wait = watch.writers_wait = commits_wait
    noise = random.Random(1).randbytes(BLOCK_SIZE)

    def endless(buffer: memoryview) -> int:
        buffer[:] = noise[: len(buffer)]
        read.append(len(buffer))
        return len(buffer) if len(read) < 100 else 0

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(
            write_backup,
            endless,
            store,
            PREFIX,
            level=1,
            threads=2,
            watch=watch,
            kill=lambda: None,
            segment_size=SEGMENT,
        )
        before = -1
        while before != (before := len(read)):
            time.sleep(0.5)
        store.gate.set()
        writing.result()
    return before


def test_while_clients_wait_the_tool_is_not_held_up() -> None:
    """Once commits wait for the rest of the stream, as much as a tool has in its buffers is read at once."""
    usual, then = (blocks_read_before(MemoryStore(), commits_wait=commits_wait) for commits_wait in (False, True))
    assert usual + 20 <= then <= usual + 30


class CommitsWait(AnyStream):
    """Whose clients cannot commit from its first byte on. ``fed_s``: when each piece came."""

    def __init__(self) -> None:
        super().__init__()
        self.fed_s: list[float] = []

    def feed(self, data: memoryview) -> None:
        """Note the time."""
        super().feed(data)
        self.fed_s.append(time.monotonic())
        self.commits_wait = True


def test_when_commits_begin_to_wait_the_compression_rests(memory: MemoryStore) -> None:
    """The tool has the processor for a moment: what it writes is read at once, and compressed after that."""
    watch, called_s, read = CommitsWait(), list[float](), reader([NOISE])
    memory.on_call = lambda _: called_s.append(time.monotonic())

    def read_and_wait(buffer: memoryview) -> int:
        count = read(buffer)
        if not count:
            threading.Event().wait(0.1)
        return count

    write_backup(
        read_and_wait, memory, PREFIX, level=1, threads=2, watch=watch, kill=lambda: None, segment_size=SEGMENT
    )
    assert watch.fed_s[-1] < called_s[0]
    assert called_s[0] - watch.fed_s[0] >= 0.03


def test_a_rest_is_over_when_all_has_been_read(memory: MemoryStore) -> None:
    """A backup of one byte does not take as long as a rest."""
    took_s = []
    for _ in range(20):
        begun_s = time.monotonic()
        write(memory, b"1", watch=CommitsWait())
        took_s.append(time.monotonic() - begun_s)
    assert min(took_s) < 0.03


def test_a_limit_limits(memory: MemoryStore) -> None:
    """As long as nobody waits a stream takes as long as its rate says."""
    begun = time.monotonic()
    write(memory, bytes(12 << 20), watch=AnyStream(), max_bytes_per_s=10 << 20)
    assert 0.9 < time.monotonic() - begun < 30


def test_while_clients_wait_there_is_no_limit(memory: MemoryStore) -> None:
    """The rate that a person set for reading does not keep others from committing."""
    watch = AnyStream()
    watch.writers_wait = True
    begun = time.monotonic()
    write(memory, BIG, watch=watch, max_bytes_per_s=1000)
    assert time.monotonic() - begun < 60


def test_a_put_that_begins_again() -> None:
    """A store that fails in the middle of a segment that is still being filled gets all of it at the next try."""
    size, stumbled = 5 * SEGMENT // 2, set[int]()

    class Stumbling(MemoryStore):
        def put_segment(
            self, prefix: str, number: int, data: Iterable[bytes | memoryview], *, segment_size: int = SEGMENT_SIZE
        ) -> None:
            if number not in stumbled:
                stumbled.add(number)
                assert len(next(iter(data))) <= SEGMENT
                raise Transient("the store hung up")
            super().put_segment(prefix, number, data, segment_size=segment_size)

    store = Stumbling()
    written = write(Retrying(store, RetryPolicy(sleep=lambda _: None)), BIG, segment_size=size)
    store.publish(NAME, PREFIX, len(written.segments), size_bytes=written.size_bytes, segment_size=written.segment_size)
    assert gzip.decompress(store.objects[NAME]) == BIG
    assert stumbled == set(range(len(written.segments)))


def test_a_segment_is_put_while_it_is_filled() -> None:
    """A store has the first bytes of a segment before the last ones were read."""
    begun = threading.Event()

    class Early(MemoryStore):
        def put_segment(
            self, prefix: str, number: int, data: Iterable[bytes | memoryview], *, segment_size: int = SEGMENT_SIZE
        ) -> None:
            pieces = iter(data)
            first = bytes(next(pieces))
            begun.set()
            super().put_segment(prefix, number, itertools.chain([first], pieces), segment_size=segment_size)

    source = reader([payload("a", NOISE * 3), end("a"), INFO])
    read = 0

    def waiting(buffer: memoryview) -> int:
        nonlocal read
        if read > 4 * BLOCK_SIZE:
            assert begun.wait(30)
        read += (count := source(buffer))
        return count

    store = Early()
    written = write_backup(
        waiting, store, PREFIX, level=1, watch=Watch(), kill=lambda: None, segment_size=32 * BLOCK_SIZE
    )
    store.publish(NAME, PREFIX, len(written.segments), size_bytes=written.size_bytes, segment_size=written.segment_size)
    assert gzip.decompress(store.objects[NAME]) == payload("a", NOISE * 3) + end("a") + INFO


def test_a_stop_before_the_start(memory: MemoryStore) -> None:
    """An attempt that was superseded before it began ends as well."""
    stop = threading.Event()
    stop.set()
    with pytest.raises(Superseded):
        write_backup(
            lambda buffer: len(buffer),  # noqa: PLW0108 -- an endless stream
            memory,
            PREFIX,
            level=1,
            watch=AnyStream(),
            kill=lambda: None,
            stop=stop,
            segment_size=SEGMENT,
        )


@pytest.mark.parametrize(
    "stream", [BIG[:-30], payload("a", NOISE) + INFO, whole("a", NOISE), BIG + b"garbage", b""], ids=len
)
def test_a_stream_that_is_not_whole(memory: MemoryStore, stream: bytes) -> None:
    """What the watch says of a stream decides, though the tool ended well; the tool is killed once, to be sure."""
    killed: list[bool] = []
    with pytest.raises(Damaged):
        write(memory, stream, kill=lambda: killed.append(True))
    assert killed == [True]


def test_a_bug_in_a_callback_comes_out(memory: MemoryStore) -> None:
    """Whatever is raised in the calling thread is raised as it is, with everything ended."""

    def fail(_: int) -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        write(memory, BIG, on_progress=fail)


def test_a_slow_store_holds_up_the_reading(memory: MemoryStore) -> None:
    """With a store that does not answer, no more is read than its segments in flight and some blocks."""
    memory.gate = threading.Event()
    limit = IN_FLIGHT * SEGMENT + 16 * BLOCK_SIZE
    read, waiting = 0, threading.Event()
    source = reader([payload("a", NOISE * 20), end("a"), INFO])

    def counted(buffer: memoryview) -> int:
        nonlocal read
        count = source(buffer)
        read += count
        return count

    def write_all() -> None:
        write_backup(
            counted, memory, PREFIX, level=1, threads=2, watch=Watch(), kill=lambda: None, segment_size=SEGMENT
        )

    thread = threading.Thread(target=write_all)
    thread.start()
    before, deadline = -1, time.monotonic() + 10
    while (before != read or memory.in_flight < IN_FLIGHT) and time.monotonic() < deadline:
        before = read
        waiting.wait(0.05)
    assert 0 < read <= limit
    memory.gate.set()
    thread.join()
    assert read > limit
    assert memory.most_in_flight == IN_FLIGHT


def test_memory_does_not_grow_with_the_stream(tmp_path: Path) -> None:
    """A stream longer than the allowed memory, hard to compress, real segments, a real store: under 300 MB in all."""
    script = f"""
import random
from pathlib import Path
from snaphold.store.local import LocalStores
from snaphold.stream.segments import write_backup
noise, rest = memoryview(random.Random(1).randbytes(1 << 20)), [400]
class Anything:
    files, chunks, commits_wait, writers_wait = [], [], False, False
    def feed(self, data): pass
    def finish(self): pass
def read(buffer):
    rest[0] -= 1
    if rest[0] < 0:
        return 0
    buffer[:] = noise[:len(buffer)]
    return len(buffer)
store = LocalStores(Path({str(tmp_path)!r})).of("1")
written = write_backup(read, store, "snaphold/d/b/1/", level=1, threads=2, watch=Anything(), kill=lambda: None)
store.publish("1.gz", "snaphold/d/b/1/", len(written.segments), size_bytes=written.size_bytes)
status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
print(len(written.segments), int(status["VmHWM"].split()[0]) >> 10)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    segments, mebibytes = map(int, done.stdout.split())
    assert segments == 7
    assert mebibytes < 286


Segments = Generator[memoryview, None, None]


def segments_of(manifest: Manifest, store: ObjectStore, stop: threading.Event | None = None) -> Segments:
    """All segments of one backup."""
    return read_backups([(manifest, manifest.data.size_bytes)], store, stop=stop)


def test_segments_read_back(memory: MemoryStore) -> None:
    """Reading yields each segment's bytes, in order."""
    manifest = taken(memory, BIG)
    assert b"".join(map(bytes, segments_of(manifest, memory))) == memory.objects[NAME]


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flip_is_found_before_its_segment_is_handed_on(data: st.DataObject) -> None:
    """All segments before the damaged one come, then Damaged names the object and the segment."""
    memory = MemoryStore()
    manifest = taken(memory, BIG)
    content = bytearray(memory.objects[NAME])
    bit = data.draw(st.integers(0, len(content) * 8 - 1))
    content[bit // 8] ^= 1 << bit % 8
    memory.objects[NAME] = bytes(content)
    number = bit // 8 // SEGMENT
    segments = segments_of(manifest, memory)
    assert b"".join(bytes(next(segments)) for _ in range(number)) == content[: number * SEGMENT]
    with pytest.raises(Damaged, match=f"segment {number} of {NAME} differs"):
        next(segments)


@pytest.mark.parametrize("change", ["shorter", "longer", "swapped", "missing"])
def test_an_object_that_is_another(memory: MemoryStore, change: str) -> None:
    """A data object of another length, with segments in another order, or none at all, is refused by name."""
    manifest = taken(memory, BIG)
    content = memory.objects.pop(NAME)
    swapped = content[SEGMENT : 2 * SEGMENT] + content[:SEGMENT] + content[2 * SEGMENT :]
    if change != "missing":
        memory.objects[NAME] = {"shorter": content[:-1], "longer": content + b"1", "swapped": swapped}[change]
    with pytest.raises(ObjectMissing if change == "missing" else Damaged, match=NAME):
        list(segments_of(manifest, memory))


def test_a_manifest_that_does_not_add_up(memory: MemoryStore) -> None:
    """Segments that are not the whole object are refused before a byte is read."""
    manifest = taken(memory, BIG)
    broken = manifest.model_copy(update={"segments": manifest.segments[:-1]})
    with pytest.raises(Damaged, match="do not add up"):
        list(segments_of(broken, memory))
    assert memory.calls["get"] == 0


def test_a_store_that_fails_while_it_is_read(memory: MemoryStore) -> None:
    """A fault of the store comes out as it is: it says nothing about the bytes."""
    manifest = taken(memory, BIG)
    memory.faults = [Fault("get", first=2, last=99)]
    with pytest.raises(Transient):
        list(segments_of(manifest, memory))


def test_reading_ahead_is_bounded(memory: MemoryStore) -> None:
    """While the first segment is being used, at most the next two are fetched; giving up ends the fetching."""
    manifest = taken(memory, BIG)
    assert len(manifest.segments) > IN_FLIGHT + 1
    segments = segments_of(manifest, memory)
    next(segments)
    next(segments)
    assert memory.calls["get"] <= IN_FLIGHT + 1
    segments.close()


def test_only_what_is_wanted_is_read(memory: MemoryStore) -> None:
    """Of each backup the segments that hold its first bytes, in the order that was asked for, and no others."""
    manifest = taken(memory, BIG)
    content = memory.objects[NAME]
    wanted = [(manifest, SEGMENT + 1), (manifest, 0), (manifest, SEGMENT)]
    read = [bytes(segment) for segment in read_backups(wanted, memory)]
    assert read == [content[:SEGMENT], content[SEGMENT : 2 * SEGMENT], content[:SEGMENT]]
    assert memory.calls["get"] == 3
    assert [bytes(segment) for segment in read_backups([(manifest, 1)], memory)] == [content[:SEGMENT]]


def test_reading_that_is_stopped(memory: MemoryStore) -> None:
    """A stop ends the reading with Superseded."""
    manifest, stop = taken(memory, BIG), threading.Event()
    segments = segments_of(manifest, memory, stop=stop)
    next(segments)
    stop.set()
    with pytest.raises(Superseded):
        next(segments)


def test_through_a_real_store(tmp_path: Path) -> None:
    """The same through files: written, published, read back; nothing is left beside the object."""
    store = LocalStores(tmp_path).of("1")
    written = write_backup(
        reader([BIG]), store, PREFIX, level=1, watch=Watch(), kill=lambda: None, segment_size=SEGMENT
    )
    store.publish(NAME, PREFIX, len(written.segments), size_bytes=written.size_bytes, segment_size=written.segment_size)
    read = b"".join(map(bytes, segments_of(manifest_of(written), store)))
    assert gzip.decompress(read) == BIG
    assert [info.name for info in store.list("")] == [NAME]
