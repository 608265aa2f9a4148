"""From segments to files: exactly what the stream holds, or a refusal that names what is wrong."""

import hashlib
import os
import random
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snaphold.config import Settings
from snaphold.engines.mariadb.engine import MariaDB
from snaphold.errors import Damaged, ObjectMissing, Permanent, Superseded
from snaphold.formats.manifest import CodecName, Manifest
from snaphold.formats.xbstream import Watch
from snaphold.store.base import ObjectStore
from snaphold.store.local import LocalStores
from snaphold.stream import extractor
from snaphold.stream.compress import BLOCK_SIZE
from snaphold.stream.extract import extract_backup
from snaphold.stream.process import Running, Tool
from snaphold.stream.segments import write_backup
from tests.conftest import processes_naming
from tests.fakes.memory_store import MemoryStore
from tests.stream.backups import NAME, PREFIX, SEGMENT, manifest_of, taken
from tests.stream.xb import INFO, end, head, payload, remove, rename, seek, streams, whole
from tests.support.instances import instance_spec, query, wait_for
from tests.support.members import member_of
from tests.support.mounts import in_a_file_system
from tests.support.servers import installation_of, mariadb_of, open_servers

AS_ROOT = os.geteuid() == 0
NOISE = random.Random(1).randbytes(6 * BLOCK_SIZE)
BIG = whole("a", NOISE) + whole("db/b", bytes(3 << 20)) + end("db/empty") + INFO


@pytest.fixture
def memory() -> MemoryStore:
    """The store of these tests."""
    return MemoryStore()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """An empty directory."""
    path = tmp_path / "target"
    path.mkdir(mode=0o700)
    return path


def files_in(directory: Path) -> dict[str, bytes]:
    """Every file below a directory, with its bytes."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def put_back(store: ObjectStore, stream: bytes, target: Path) -> None:
    """Publish a stream as a backup, whatever it is, and extract it, with root as somebody else."""
    owner = 312_345 if AS_ROOT else None
    if AS_ROOT:
        os.chown(target, 312_345, 312_345, follow_symlinks=False)
    extract_backup([taken(store, stream)], store, target, uid=owner, gid=owner, threads=2)


def extracted_here(stream: bytes, target: Path, level: int = 1) -> None:
    """Extract in this process: what the extracting one does once it has abandoned its rights."""
    source = os.memfd_create("stream")
    try:
        for at in range(0, len(stream), BLOCK_SIZE):
            os.write(source, member_of(memoryview(stream)[at : at + BLOCK_SIZE], level))
        layer = extractor.Layer(os.lseek(source, 0, os.SEEK_CUR), len(stream), len(stream))
        os.lseek(source, 0, os.SEEK_SET)
        extractor.extract(source, os.open(target, os.O_RDONLY), layer, 2, lambda _: None)
    finally:
        os.close(source)


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_files_come_back(memory: MemoryStore, target: Path, codec: CodecName) -> None:
    """Every file with its bytes, readable by its owner only, and the progress counts to the stream's length."""
    told: list[int] = []
    extract_backup([taken(memory, BIG, codec)], memory, target, threads=2, on_progress=told.append)
    assert files_in(target) == {
        "a": NOISE,
        "db/b": bytes(3 << 20),
        "db/empty": b"",
        "xtrabackup_info": b"tool_version = 10.11\n",
    }
    modes = {stat.S_IMODE(path.stat().st_mode) for path in target.rglob("*") if path.is_file()}
    assert (modes, stat.S_IMODE((target / "db").stat().st_mode)) == ({0o600}, 0o700)
    assert told == sorted(told)
    assert told[-1] == len(BIG)


@settings(deadline=None, max_examples=60)
@given(made=streams(), level=st.integers(0, 3))
def test_any_good_stream_comes_back(
    tmp_path_factory: pytest.TempPathFactory, made: tuple[list[bytes], dict[str, bytes]], level: int
) -> None:
    """However the chunks of files alternate, each file has its bytes."""
    target = tmp_path_factory.mktemp("target")
    extracted_here(b"".join(made[0]), target, level)
    assert files_in(target) == made[1]


def test_renames_removals_replacements_and_holes(target: Path) -> None:
    """What is left is what mbstream leaves."""
    extracted_here(
        b"".join(
            [
                whole("a", b"12"),
                rename("a", "new/b"),
                whole("a", b"345"),
                whole("c", b"6"),
                remove("c"),
                remove("nothing"),
                whole("d", b"7"),
                whole("e", b"89"),
                rename("e", "d"),
                whole("a", b"X", flags=2),
                seek("holes", 3),
                payload("holes", b"1", 3),
                end("holes"),
                INFO,
            ]
        ),
        target,
    )
    files = files_in(target)
    del files["xtrabackup_info"]
    assert files == {"new/b": b"12", "a": b"X", "d": b"89", "holes": b"\0\0\0001"}


def test_many_directories(target: Path) -> None:
    """A server with more databases than we may open files comes back all the same."""
    names = [f"db{number}/sub{number}/t" for number in range(1200)]
    extracted_here(b"".join(whole(name, name.encode()) for name in names) + INFO, target)
    assert sorted(files_in(target)) == sorted([*names, "xtrabackup_info"])
    assert files_in(target)[names[7]] == names[7].encode()


ESCAPED = f"{tempfile.gettempdir()}/snaphold-escaped"
BROKEN: dict[str, tuple[bytes, str]] = {
    "cut at a chunk": (whole("a", b"1" * 9)[:-15] + b"", "before a is complete"),
    "no info file": (whole("a", b"1"), "without the file that the tool writes last"),
    "cut in a chunk": (BIG[:-40], "ends inside a chunk"),
    "trailing garbage": (BIG + b"garbage", "ends inside a chunk"),
    "trailing zeros": (BIG + bytes(100), "no chunk where one should be"),
    "a flipped byte": (BIG.replace(NOISE[:8], NOISE[7::-1]), "a chunk of a differs"),
    "a file twice": (whole("a", b"1") * 2 + INFO, "a comes twice"),
    "up": (whole("../../escaped", b"1") + INFO, "the stream names a file '../../escaped'"),
    "up in the middle": (whole("a/../../escaped", b"1") + INFO, "the stream names a file"),
    "absolute": (whole(ESCAPED, b"1") + INFO, f"the stream names a file '{ESCAPED}'"),
    "renamed up": (whole("a", b"1") + rename("a", "../escaped") + INFO, "the stream names a file '../escaped'"),
    "removed up": (remove("../target") + INFO, "the stream names a file '../target'"),
    "NUL": (head(b"E", b"a\0b") + INFO, "the stream names a file"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_stream_that_must_not_be_trusted(memory: MemoryStore, target: Path, what: str) -> None:
    """Though every hash is right: a stream that is not whole, or leads elsewhere, is refused with its reason."""
    stream, reason = BROKEN[what]
    with pytest.raises(Damaged, match=reason):
        put_back(memory, stream, target)
    assert [path.name for path in target.parent.iterdir()] == ["target"]
    assert not Path(ESCAPED).exists()


def test_a_file_where_a_directory_should_be(memory: MemoryStore, target: Path) -> None:
    """A stream whose files exclude each other fails; mbstream would exit with 0."""
    with pytest.raises(Permanent, match="cannot be extracted"):
        put_back(memory, whole("x", b"1") + whole("x/y", b"2") + INFO, target)


def test_a_stream_that_lost_the_last_chunk_of_a_file(memory: MemoryStore, target: Path) -> None:
    """A payload lost at a file's end, which no tool notices, is known by the length that the manifest keeps."""
    lost = payload("a", NOISE[:100]) + end("a") + INFO
    whole_stream = payload("a", NOISE[:100]) + payload("a", NOISE[100:200], 100) + end("a") + INFO
    manifest = taken(memory, lost).model_copy(update={"stream_bytes": len(whole_stream)})
    with pytest.raises(Damaged, match=f"{NAME} holds a stream of {len(lost)} bytes instead of {len(whole_stream)}"):
        extract_backup([manifest], memory, target)


def test_a_stream_that_expands_beyond_its_length(memory: MemoryStore, target: Path) -> None:
    """A stream that decompresses to more bytes than its manifest states is refused before these are written."""
    bomb = whole("a", b"1") + whole("b", bytes(64 << 20)) + INFO
    manifest = taken(memory, bomb).model_copy(update={"stream_bytes": 3 << 20})
    with pytest.raises(Damaged, match=f"longer than the {3 << 20} bytes"):
        extract_backup([manifest], memory, target)
    assert sum(map(len, files_in(target).values())) <= 3 << 20


@pytest.mark.parametrize("segment", [0, 2, 5])
def test_a_flipped_bit_in_the_store(memory: MemoryStore, target: Path, segment: int) -> None:
    """Bytes whose segment differs are not extracted."""
    manifest = taken(memory, BIG)
    content = bytearray(memory.objects[NAME])
    content[segment * SEGMENT + 77] ^= 1
    memory.objects[NAME] = bytes(content)
    with pytest.raises(Damaged, match=f"segment {segment} of {NAME} differs"):
        extract_backup([manifest], memory, target)


def test_a_missing_object(memory: MemoryStore, target: Path) -> None:
    """No object, no file."""
    manifest = taken(memory, BIG)
    memory.delete(NAME)
    with pytest.raises(ObjectMissing, match=NAME):
        extract_backup([manifest], memory, target)
    assert files_in(target) == {}


def test_a_foreign_gzip_stream(memory: MemoryStore, target: Path) -> None:
    """An object that is no row of our members is refused."""
    manifest = taken(memory, BIG)
    first = member_of(memoryview(BIG)[:BLOCK_SIZE])
    assert memory.objects[NAME].startswith(first)
    foreign = bytearray(memory.objects[NAME])
    foreign[12:14] = b"XX"  # the extra field's name
    broken = MemoryStore()
    broken.objects[NAME] = bytes(foreign)
    with pytest.raises(Damaged, match="no gzip member where one should be"):
        extract_backup([_rehashed(manifest, broken)], broken, target)


def test_a_directory_that_is_not_empty(memory: MemoryStore, target: Path) -> None:
    """Nothing is ever mixed with what was there before."""
    (target / "a").write_text("theirs")
    with pytest.raises(Permanent, match="the directory to extract into is not empty"):
        put_back(memory, BIG, target)
    assert files_in(target) == {"a": b"theirs"}


def test_a_directory_that_is_a_link(memory: MemoryStore, target: Path) -> None:
    """A link is not followed, wherever it leads."""
    link = target.parent / "link"
    link.symlink_to(target)
    with pytest.raises(Permanent, match="cannot be extracted"):
        put_back(memory, BIG, link)
    assert files_in(target) == {}


@pytest.mark.parametrize("when", ["before", "in the middle"])
def test_an_extraction_that_is_stopped(memory: MemoryStore, target: Path, when: str) -> None:
    """A stop ends everything with Superseded; no process or thread is left."""
    manifest, stop, threads = taken(memory, BIG), threading.Event(), set(threading.enumerate())
    if when == "before":
        stop.set()
    else:
        memory.on_call = lambda method: stop.set() if method == "get" else None
    with pytest.raises(Superseded):
        extract_backup([manifest], memory, target, stop=stop)
    assert processes_naming(target) == []
    assert {thread for thread in set(threading.enumerate()) - threads if thread.name != "spawner"} == set()


def test_an_extracting_process_that_is_killed(memory: MemoryStore, target: Path) -> None:
    """kill -9 of the extracting process is a failure that says so."""
    manifest = taken(memory, BIG)

    def kill(method: str) -> None:
        for process in processes_naming(target) if method == "get" else ():
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    memory.on_call = kill
    with pytest.raises(Permanent, match="SIGKILL"):
        extract_backup([manifest], memory, target)


def test_what_it_leaves_when_everybody_is_killed(memory: MemoryStore, target: Path) -> None:
    """Its messages lie beside its directory: whoever removes the attempt removes them. Nothing stays of a good one."""
    manifest = taken(memory, BIG)
    seen: set[str] = set()
    memory.on_call = lambda _: seen.update(path.name for path in target.parent.iterdir())
    extract_backup([manifest], memory, target)
    assert seen == {"target", "target.log"}
    assert [path.name for path in target.parent.iterdir()] == ["target"]


def test_a_full_disk(tmp_path: Path) -> None:
    """A disk without space is the reason given."""
    script = f"""
import sys
from pathlib import Path
from snaphold.errors import Permanent
from snaphold.stream.extract import extract_backup
from tests.fakes.memory_store import MemoryStore
from tests.stream.backups import SEGMENT, taken
from tests.stream.xb import INFO, whole
store = MemoryStore()
try:
    extract_backup([taken(store, whole("a", bytes(3 << 20)) + INFO)], store, Path({str(tmp_path)!r}))
except Permanent as error:
    print(error)
"""
    done = in_a_file_system("tmpfs", tmp_path, script, "-o size=1m")
    assert done.stdout == "the backup cannot be extracted: the disk has no space left\n", done.stderr


@pytest.mark.skipif(not AS_ROOT, reason="only root can become somebody else")
def test_the_extracting_process_has_no_rights(target: Path, tmp_path: Path) -> None:
    """It runs as the instance's user and group, in no other group, and can never get more."""
    os.chown(target, 312_345, 312_345)
    argv = [sys.executable, "-m", "snaphold.stream.extractor", "--directory", str(target), "--threads", "2"]
    argv += ["--layer", str(extractor.Layer(1, 1, 1))]
    tool = Tool(argv=[*argv, "--uid", "312345", "--gid", "312345"], messages=tmp_path / "messages")
    running = Running(tool, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        status: dict[str, list[str]] = {}

        def without_rights() -> bool:
            lines = Path(f"/proc/{running.pid}/status").read_text().splitlines()
            status.update({key: value.split() for key, _, value in (line.partition(":") for line in lines)})
            return status["Uid"][0] == "312345" and set(status["CapPrm"][0]) == {"0"}

        wait_for(without_rights, "the extracting process to give up its rights")
        assert status["NoNewPrivs"] == ["1"]
        assert status["Uid"] == status["Gid"] == ["312345"] * 4
        assert status["Groups"] == []
        assert {int(status[name][0], 16) for name in ("CapPrm", "CapEff", "CapInh", "CapAmb")} == {0}
    finally:
        running.end()


@pytest.mark.skipif(not AS_ROOT, reason="only root can become somebody else")
def test_the_files_belong_to_the_instance(memory: MemoryStore, target: Path) -> None:
    """With root the files are the given user's, though the way to the directory is closed to that user."""
    os.chown(target, 312_345, 312_345)
    target.parent.chmod(0o700)
    extract_backup([taken(memory, BIG)], memory, target, uid=312_345, gid=312_345)
    owners = {(path.lstat().st_uid, path.lstat().st_gid) for path in target.rglob("*")}
    assert owners == {(312_345, 312_345)}


@pytest.mark.skipif(not AS_ROOT, reason="only root can become somebody else")
def test_a_directory_of_somebody_else(memory: MemoryStore, target: Path) -> None:
    """The extracting process may write where its user may, and nowhere else."""
    with pytest.raises(Permanent, match="Permission denied"):
        extract_backup([taken(memory, BIG)], memory, target, uid=312_345, gid=312_345)
    assert files_in(target) == {}


@pytest.mark.engine
def test_the_same_files_as_the_standard_tools(host_settings: Settings, state_dir: Path, tmp_path: Path) -> None:
    """A real backup: our files are byte for byte those of ``gzip -dc | mbstream -x``, and the watch saw them all."""
    servers = open_servers(host_settings)
    spec = instance_spec()
    source = servers.create(spec, 1)
    for statement in (
        "CREATE TABLE shop.orders (id INT PRIMARY KEY AUTO_INCREMENT, v VARCHAR(200), KEY (v)) ENGINE=InnoDB",
        "INSERT INTO shop.orders (v) SELECT CONCAT(MD5(seq), REPEAT('x', seq MOD 99)) FROM shop.seq_1_to_100000",
        "CREATE TABLE shop.old (id INT, v TEXT) ENGINE=MyISAM",
        "INSERT INTO shop.old SELECT id, v FROM shop.orders",
        "CREATE TABLE shop.side (id INT, v TEXT) ENGINE=Aria",
        "CREATE TABLE shop.nothing (id INT) ENGINE=MyISAM",
        "CREATE TABLE shop.`we ird/na.me ü` (id INT)",
        "CREATE TABLE shop.parts (id INT) PARTITION BY HASH (id) PARTITIONS 4",
    ):
        query(source, statement)
    store, watch = LocalStores(tmp_path / "store").of("1234"), Watch(MariaDB.captures)
    engine = mariadb_of(servers)
    with engine.take(servers.access(spec.id), parent_lsn=None, lock_wait_timeout_s=60) as stream:
        written = write_backup(
            stream.readinto, store, PREFIX, level=1, watch=watch, kill=stream.kill, segment_size=SEGMENT
        )
        facts = stream.taken(watch.captured)
    store.publish(NAME, PREFIX, len(written.segments), size_bytes=written.size_bytes, segment_size=written.segment_size)
    assert facts.checkpoint_lsn is not None
    assert facts.checkpoint_lsn <= facts.to_lsn

    ours, theirs = state_dir / "ours", tmp_path / "theirs"
    ours.mkdir(mode=0o700)
    theirs.mkdir()
    owner = 312_345 if AS_ROOT else None
    if AS_ROOT:
        os.chown(ours, 312_345, 312_345)
    extract_backup([manifest_of(written)], store, ours, uid=owner, gid=owner)

    environment = {**installation_of(servers).environment, "PATH": os.environ["PATH"]}
    data = tmp_path / "store" / "1234" / "z_CLOUDDB_BACKUPS" / NAME
    pipeline = 'gzip -dc "$0" | "$1" -x -C "$2"'
    subprocess.run(
        ["bash", "-o", "pipefail", "-c", pipeline, data, installation_of(servers).mbstream, theirs],
        env=environment,
        check=True,
    )
    expected = files_in(theirs)
    assert len(expected) > 150
    assert files_in(ours) == expected
    assert {file.path: file.size_bytes for file in watch.files if file.present} == {
        path: len(content) for path, content in expected.items()
    }


def _rehashed(manifest: Manifest, store: MemoryStore) -> Manifest:
    """The manifest of what is in this store."""
    content = store.objects[NAME]
    parts = [content[at : at + SEGMENT] for at in range(0, len(content), SEGMENT)]
    segments = [
        segment.model_copy(update={"sha256": hashlib.sha256(part).hexdigest()})
        for segment, part in zip(manifest.segments, parts, strict=True)
    ]
    return manifest.model_copy(update={"segments": segments})
