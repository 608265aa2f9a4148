"""The local store beyond the contract: what it leaves alone, what it says when the disk fails, what a crash leaves."""

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from snaphold.errors import Damaged, ObjectExists, ObjectMissing, Permanent, Transient
from snaphold.store.local import LocalStore, LocalStores, _mapped
from tests.support.mounts import in_a_file_system

if TYPE_CHECKING:
    from collections.abc import Callable

SEGMENT = 4096  # bytes
PREFIX = "snaphold/d/b/1/"


@pytest.fixture
def container(tmp_path: Path) -> Path:
    """The directory of one account's container; not there yet."""
    return tmp_path / "root" / "1234" / "z_CLOUDDB_BACKUPS"


@pytest.fixture
def store(container: Path) -> LocalStore:
    """The store of that account."""
    return LocalStores(container.parents[1]).of("1234")


def tree(directory: Path) -> list[str]:
    """Everything below a directory."""
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def test_objects_are_files_of_the_container(store: LocalStore, container: Path) -> None:
    """Anybody finds an object under its name; only the service's user may read it."""
    store.put("1.json", b"{}")
    store.put_segment(PREFIX, 0, [b"x" * SEGMENT], segment_size=SEGMENT)
    store.publish("1.gz", PREFIX, 1, size_bytes=SEGMENT, segment_size=SEGMENT)
    assert tree(container) == ["1.gz", "1.json"]
    assert (container / "1.gz").read_bytes() == b"x" * SEGMENT
    assert {(container / name).stat().st_mode & 0o777 for name in ("1.gz", "1.json")} == {0o600}
    assert container.stat().st_mode & 0o777 == 0o700


def test_a_sweep_beside_a_new_backup(store: LocalStore, container: Path) -> None:
    """Another process that removes the last object under a directory takes none away that is just being made."""
    sweeping = LocalStore(container)  # as another process has it
    ended = threading.Event()

    def sweep() -> None:
        while not ended.is_set():
            for directory in ("snaphold/d/a", "snaphold/d", "snaphold"):
                with suppress(OSError):
                    (container / directory).rmdir()

    with ThreadPoolExecutor(1) as pool:
        sweeper = pool.submit(sweep)
        try:
            for _ in range(30):
                store.put_segment(PREFIX, 0, [b"x"], segment_size=SEGMENT)
                for name in ("segments", "sizes"):
                    sweeping.delete(f"{PREFIX}{name}")
        finally:
            ended.set()
        sweeper.result()


def test_what_belongs_to_others_stays(store: LocalStore, container: Path, tmp_path: Path) -> None:
    """Directories, links and files of other names in the container are neither shown, read, replaced nor removed."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    container.mkdir(parents=True)
    (container / "snaphold").mkdir()
    (container / "snaphold" / "kept by somebody").write_text("1")
    (container / "a name with spaces").write_text("2")
    (container / "link").symlink_to(outside / "secret")
    (container / "directory-link").symlink_to(outside)
    (container / "empty").mkdir()
    before = tree(container)
    assert list(store.list("")) == []
    with pytest.raises(ObjectMissing):
        store.get("link")
    with pytest.raises(ObjectMissing):
        store.size("link")
    with pytest.raises(ObjectExists):
        store.put("link", b"")
    store.delete("link")
    store.delete("empty")
    store.put_segment(PREFIX, 0, [b"1"], segment_size=SEGMENT)
    for info in list(store.list("")):
        store.delete(info.name)
    assert tree(container) == before
    assert (outside / "secret").read_text() == "secret"


def test_publish_cut_short_after_its_link(store: LocalStore, container: Path) -> None:
    """A crash before the segments were removed: publishing again ends it, and no segment can change the object."""
    store.put_segment(PREFIX, 0, [b"1" * 10], segment_size=SEGMENT)
    os.link(container / PREFIX / "segments", container / "1.gz")
    with pytest.raises(Permanent, match="published already"):
        store.put_segment(PREFIX, 0, [b"2" * 10], segment_size=SEGMENT)
    store.publish("1.gz", PREFIX, 1, size_bytes=10, segment_size=SEGMENT)
    assert tree(container) == ["1.gz"]
    with pytest.raises(ObjectExists):
        store.publish("1.gz", PREFIX, 1, size_bytes=10, segment_size=SEGMENT)
    assert (container / "1.gz").read_bytes() == b"1" * 10


def test_segments_cut_by_a_crash(store: LocalStore, container: Path) -> None:
    """Bytes that lie in the file without their size noted are no segment."""
    store.put_segment(PREFIX, 0, [b"1" * SEGMENT], segment_size=SEGMENT)
    with (container / PREFIX / "segments").open("ab") as file:
        file.write(b"2" * SEGMENT)
    with pytest.raises(Damaged):
        store.publish("1.gz", PREFIX, 2, size_bytes=2 * SEGMENT, segment_size=SEGMENT)
    store.publish("1.gz", PREFIX, 1, size_bytes=SEGMENT, segment_size=SEGMENT)
    assert (container / "1.gz").read_bytes() == b"1" * SEGMENT


def test_a_file_that_lost_its_end(store: LocalStore, container: Path) -> None:
    """Segments whose bytes are gone are not published."""
    store.put_segment(PREFIX, 0, [b"1" * 100], segment_size=SEGMENT)
    os.truncate(container / PREFIX / "segments", 99)
    with pytest.raises(Damaged):
        store.publish("1.gz", PREFIX, 1, size_bytes=100, segment_size=SEGMENT)


def test_an_object_that_shrinks_while_it_is_read(store: LocalStore, container: Path) -> None:
    """Fewer bytes than there were at the start are a failed read, not a short object."""
    store.put("big", bytes(9 << 20))
    pieces = store.get("big")
    next(pieces)
    os.truncate(container / "big", 5 << 20)
    with pytest.raises(Transient):
        list(pieces)


@pytest.mark.parametrize(
    ("number", "expected", "text"),
    [
        (errno.ENOSPC, Permanent, "the store has no space left"),
        (errno.EDQUOT, Permanent, "the store has no space left"),
        (errno.EACCES, Permanent, "the store refused"),
        (errno.EROFS, Permanent, "the store refused"),
        (errno.EIO, Transient, "the store failed"),
        (errno.ESTALE, Transient, "the store failed"),
        (errno.ENOENT, ObjectMissing, "no object a"),
    ],
    ids=lambda value: errno.errorcode.get(value) if isinstance(value, int) else None,
)
def test_what_the_file_system_says(number: int, expected: type[Exception], text: str) -> None:
    """What passes may be tried again; what does not is said in plain words."""
    with pytest.raises(expected, match=text) as caught, _mapped("a"):
        raise OSError(number, os.strerror(number))
    assert type(caught.value) is expected


DISK_FULL = """
import sys
from pathlib import Path
from snaphold.errors import Permanent
from snaphold.store.local import LocalStores
root = Path(sys.argv[1])
store = LocalStores(root).of("1")
def refused(call):
    try:
        call()
    except Permanent as error:
        print(error)
big = bytes(2 << 20)
refused(lambda: store.put("object", big))
print([info.name for info in store.list("")])
refused(lambda: store.put_segment("p/", 0, [big], segment_size=2 << 20))
print([info.name for info in store.list("")])
store.put_segment("p/", 0, [big[:600 << 10]], segment_size=600 << 10)
refused(lambda: store.put_segment("p/", 1, [big[:600 << 10]], segment_size=600 << 10))
try:
    store.publish("whole", "p/", 2, size_bytes=1200 << 10, segment_size=600 << 10)
except Permanent as error:
    print(type(error).__name__)
for info in list(store.list("p/")):
    store.delete(info.name)
store.put("object", big[:900 << 10])
print([(info.name, info.size_bytes) for info in store.list("")])
"""


def test_a_full_disk(tmp_path: Path) -> None:
    """A full store says so, leaves nothing half made, and has its space back once the attempt's bytes are deleted."""
    done = in_a_file_system("tmpfs", tmp_path, DISK_FULL, "-o size=1m")
    assert done.stdout.splitlines() == [
        "the store has no space left",
        "[]",
        "the store has no space left",
        "[]",
        "the store has no space left",
        "Damaged",
        "[('object', 921600)]",
    ], done.stderr


def test_a_container_that_may_not_be_written(tmp_path: Path) -> None:
    """A path that cannot be a directory is a refusal with its reason, not a crash."""
    (tmp_path / "1").write_text("a file where the account's directory should be")
    store = LocalStores(tmp_path).of("1")
    calls: list[Callable[[], object]] = [
        lambda: store.put("a", b""),
        lambda: store.put_segment(PREFIX, 0, [b"1"], segment_size=SEGMENT),
    ]
    for call in calls:
        with pytest.raises(Permanent, match="the store refused: Not a directory"):
            call()
    assert list(store.list("")) == []


def test_a_repair_that_was_killed_leaves_nothing_after_the_next(container: Path, store: LocalStore) -> None:
    """The next call removes the draft, as long as the object, that a crash left; other names stay."""
    store.put("1.gz", bytes(3 * SEGMENT))
    (container / "1.gz.0123456789abcdef.tmp").write_bytes(bytes(3 * SEGMENT))
    (container / "1.gz.other.tmp").write_bytes(b"theirs")
    store.replace_segments("1.gz", [(1, [b"x" * SEGMENT])], size_bytes=3 * SEGMENT, segment_size=SEGMENT)
    assert sorted(path.name for path in container.iterdir()) == ["1.gz", "1.gz.other.tmp"]
    assert (container / "1.gz").read_bytes() == bytes(SEGMENT) + b"x" * SEGMENT + bytes(SEGMENT)
