"""What every object store must do (snaphold.store.base.ObjectStore)."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from snaphold.errors import Damaged, ObjectExists, ObjectMissing, Permanent
from snaphold.store.base import Containers, ObjectStore, OwnStore, Stores
from snaphold.store.local import LocalStores
from snaphold.store.retrying import RetryingStores
from tests.fakes.memory_store import MemoryStores
from tests.support.exchange import Exchange

SEGMENT = 64 << 10  # bytes; the rules do not depend on it
PREFIX = "snaphold/deployment/backup/1/"
EXCHANGE = Exchange()
IMPLEMENTATIONS: dict[str, Callable[[Path], Containers]] = {
    "peer": lambda root: EXCHANGE.containers(LocalStores(root)),
}
OF_REGIONS: dict[str, Callable[[Path], Stores]] = {
    "local": LocalStores,
    "retrying": lambda root: RetryingStores(LocalStores(root)),
    "memory": lambda _: MemoryStores(),
}
IMPLEMENTATIONS.update(OF_REGIONS)
PARTS = st.text("abzAZ019._-", min_size=1, max_size=12).filter(lambda part: part not in {".", ".."})
NAMES = st.lists(PARTS, min_size=1, max_size=4).map("/".join)


@pytest.fixture(scope="module", autouse=True)
def exchange() -> Iterator[None]:
    """The other end of the stores that are reached over HTTP."""
    with EXCHANGE.serving():
        yield


@pytest.fixture(params=IMPLEMENTATIONS)
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Containers:
    """The containers of every account, empty."""
    return IMPLEMENTATIONS[request.param](tmp_path / "root")


@pytest.fixture
def store(stores: Containers) -> ObjectStore:
    """One account's container, empty."""
    return stores.of("1234")


@pytest.fixture(params=OF_REGIONS)
def own_store(request: pytest.FixtureRequest, tmp_path: Path) -> OwnStore:
    """One account's container of a region's own, empty."""
    return OF_REGIONS[request.param](tmp_path / "root").of("1234")


def content(store: ObjectStore, name: str, start: int = 0, length: int | None = None) -> bytes:
    """An object's bytes."""
    return b"".join(store.get(name, start, length))


def names(store: ObjectStore, prefix: str = "") -> list[str]:
    """The names that are listed."""
    return [info.name for info in store.list(prefix)]


def segment(number: int, size: int = SEGMENT) -> list[bytes]:
    """A segment's bytes, in two pieces."""
    return [bytes([number]) * (size // 3), bytes([number + 100]) * (size - size // 3)]


def test_an_object_is_read_as_it_was_put(store: ObjectStore) -> None:
    """What was put under a name is what get, size and list say of it."""
    store.put("1.json", b"content")
    assert content(store, "1.json") == b"content"
    assert store.size("1.json") == 7
    (info,) = store.list("1.")
    assert (info.name, info.size_bytes) == ("1.json", 7)
    assert info.modified_s > 1_600_000_000


def test_hashes_are_those_of_the_bytes(store: ObjectStore) -> None:
    """``sha256`` tells of a range as of the whole; of what is not there it tells nothing."""
    store.put("1.gz", bytes(range(200)))
    assert store.sha256("1.gz") == sha256(bytes(range(200))).hexdigest()
    assert store.sha256("1.gz", 10, 20) == sha256(bytes(range(10, 30))).hexdigest()
    with pytest.raises(ObjectMissing):
        store.sha256("2.gz")


def test_a_segment_is_known_by_its_hash_until_it_is_published(store: ObjectStore) -> None:
    """``segment_sha256`` tells of a segment that was put, if it has exactly this size."""
    store.put_segment(PREFIX, 0, segment(1), segment_size=SEGMENT)
    store.put_segment(PREFIX, 1, segment(2, 200), segment_size=SEGMENT)
    assert store.segment_sha256(PREFIX, 1, 200, segment_size=SEGMENT) == sha256(b"".join(segment(2, 200))).hexdigest()
    for number, size_bytes in [(1, 201), (2, 200)]:
        with pytest.raises(ObjectMissing):
            store.segment_sha256(PREFIX, number, size_bytes, segment_size=SEGMENT)
    store.publish("1.gz", PREFIX, 2, size_bytes=SEGMENT + 200, segment_size=SEGMENT)
    with pytest.raises(ObjectMissing):
        store.segment_sha256(PREFIX, 1, 200, segment_size=SEGMENT)


def test_an_empty_object_is_one(store: ObjectStore) -> None:
    """An object without bytes exists, and reads as none."""
    store.put("empty", b"")
    assert (content(store, "empty"), store.size("empty"), names(store)) == (b"", 0, ["empty"])


def test_a_taken_name_stays_as_it_is(store: ObjectStore) -> None:
    """Neither put nor publish replaces an object."""
    store.put("taken", b"first")
    store.put_segment(PREFIX, 0, segment(0), segment_size=SEGMENT)
    with pytest.raises(ObjectExists):
        store.put("taken", b"second")
    with pytest.raises(ObjectExists):
        store.publish("taken", PREFIX, 1, size_bytes=SEGMENT, segment_size=SEGMENT)
    assert content(store, "taken") == b"first"


def test_an_object_is_replaced(store: ObjectStore) -> None:
    """The new bytes stand in the place of the old ones, or where there was nothing; no other name is touched."""
    store.put("a/receipt", b"a longer first one")
    store.put("a/receipt.other", b"another")
    store.replace("a/receipt", b"second")
    store.replace("b/receipt", b"first")
    assert [content(store, name) for name in ("a/receipt", "b/receipt")] == [b"second", b"first"]
    assert names(store) == ["a/receipt", "a/receipt.other", "b/receipt"]


def test_a_segment_whose_bytes_turn_out_wrong(store: ObjectStore) -> None:
    """What is raised by the bytes as they come is raised, and there is no such segment: nothing can be published."""

    class Wrong:
        def __iter__(self) -> Iterator[bytes]:
            yield from segment(0)
            raise Damaged("they differ")

    with pytest.raises(Damaged, match="they differ"):
        store.put_segment(PREFIX, 0, Wrong(), segment_size=SEGMENT)
    with pytest.raises(Damaged):
        store.publish("1.gz", PREFIX, 1, size_bytes=SEGMENT, segment_size=SEGMENT)
    store.put_segment(PREFIX, 0, segment(1), segment_size=SEGMENT)
    store.publish("1.gz", PREFIX, 1, size_bytes=SEGMENT, segment_size=SEGMENT)
    assert content(store, "1.gz") == b"".join(segment(1))


@pytest.mark.parametrize("length", [100, 2 * SEGMENT, 3 * SEGMENT])
def test_segments_of_an_object_are_replaced(own_store: OwnStore, length: int) -> None:
    """The segments stand at their places, no other byte has changed, and the object is as long as was said."""
    whole = b"".join(b"".join(segment(number)) for number in (1, 2))
    before = whole[:SEGMENT] + bytes(length - SEGMENT) if length > SEGMENT else whole[:length]
    own_store.put("1.gz", before)
    own_store.replace_segments("1.gz", [(1, segment(2))], size_bytes=2 * SEGMENT, segment_size=SEGMENT)
    assert content(own_store, "1.gz") == before[:SEGMENT].ljust(SEGMENT, b"\0") + whole[SEGMENT:]
    own_store.replace_segments("1.gz", [(0, segment(1))], size_bytes=2 * SEGMENT, segment_size=SEGMENT)
    assert content(own_store, "1.gz") == whole
    own_store.replace_segments("1.gz", [], size_bytes=50)
    assert content(own_store, "1.gz") == whole[:50]
    assert names(own_store) == ["1.gz"]


def test_segments_are_replaced_at_once(own_store: OwnStore) -> None:
    """Who reads meanwhile reads the old object, and so it stays when the new bytes turn out wrong."""
    before, read = b"".join(segment(1) + segment(2)), []
    own_store.put("1.gz", before)

    def replacements() -> Iterator[tuple[int, list[bytes]]]:
        yield 0, segment(3)
        read.append(content(own_store, "1.gz"))
        raise Damaged("they differ")

    with pytest.raises(Damaged, match="they differ"):
        own_store.replace_segments("1.gz", replacements(), size_bytes=len(before), segment_size=SEGMENT)
    assert [*read, content(own_store, "1.gz")] == [before, before]
    assert names(own_store) == ["1.gz"]


def test_no_segment_is_replaced_where_none_can_be(own_store: OwnStore) -> None:
    """An object that is missing is not made, and none gets bytes beyond its length."""
    own_store.put("there", b"content")
    with pytest.raises(ObjectMissing):
        own_store.replace_segments("missing", [(0, [b"x"])], size_bytes=1)
    for number, size_bytes in [(-1, 7), (1, 7), (3, 7)]:
        with pytest.raises(Permanent):
            own_store.replace_segments("there", [(number, [b"xx"])], size_bytes=size_bytes, segment_size=6)
    assert (names(own_store), content(own_store, "there")) == (["there"], b"content")


@pytest.mark.parametrize("segment_size", [1000, 4096, 3 * SEGMENT])
def test_a_backup_chooses_its_segment_size(store: ObjectStore, segment_size: int) -> None:
    """Segments of any size become an object, as long as one prefix has one size."""
    parts = [segment(1, segment_size), segment(2, segment_size), segment(3, 100)]
    for number in (2, 0, 1):
        store.put_segment(PREFIX, number, parts[number], segment_size=segment_size)
    expected = sha256(b"".join(parts[1])).hexdigest()
    assert store.segment_sha256(PREFIX, 1, segment_size, segment_size=segment_size) == expected
    length = 2 * segment_size + 100
    with pytest.raises(Damaged):
        store.publish("1.gz", PREFIX, 3, size_bytes=length, segment_size=segment_size + 1)
    store.publish("1.gz", PREFIX, 3, size_bytes=length, segment_size=segment_size)
    assert content(store, "1.gz") == b"".join(b"".join(part) for part in parts)


def test_whoever_reads_while_an_object_is_replaced(store: ObjectStore) -> None:
    """Readers see the old bytes or the new ones, never a mixture and never nothing."""
    versions = [bytes([number]) * 100_000 for number in range(20)]
    store.replace("receipt", versions[0])

    def replace_all() -> None:
        for version in versions:
            store.replace("receipt", version)

    with ThreadPoolExecutor(1) as pool:
        replacing = pool.submit(replace_all)
        while not replacing.done():
            assert content(store, "receipt") in versions
    assert content(store, "receipt") == versions[-1]


def test_two_put_the_same_name_at_once(store: ObjectStore) -> None:
    """Exactly one of those who put a name at the same time has it; the others hear ObjectExists."""
    start = threading.Barrier(4)

    def put(number: int) -> bool:
        start.wait()
        try:
            store.put("raced", bytes([number]) * 1000)
        except ObjectExists:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        won = list(pool.map(put, range(4)))
    assert won.count(True) == 1
    assert content(store, "raced") == bytes([won.index(True)]) * 1000
    assert names(store) == ["raced"]


def test_segments_become_one_object(store: ObjectStore) -> None:
    """Segments put in any order, by several threads, read in their numbers' order once they are published."""
    order = [3, 0, 2, 1]
    sizes = {3: 100}
    with ThreadPoolExecutor(4) as pool:
        list(
            pool.map(
                lambda n: store.put_segment(PREFIX, n, segment(n, sizes.get(n, SEGMENT)), segment_size=SEGMENT), order
            )
        )
    assert all(name.startswith(PREFIX) for name in names(store)), "before publish only the prefix shows anything"
    store.publish("1.gz", PREFIX, 4, size_bytes=3 * SEGMENT + 100, segment_size=SEGMENT)
    expected = b"".join(b"".join(segment(n, sizes.get(n, SEGMENT))) for n in range(4))
    assert content(store, "1.gz") == expected
    assert store.size("1.gz") == len(expected)


def test_a_segment_put_again_replaces_the_first(store: ObjectStore) -> None:
    """What counts is the last segment put under a number, also when it is shorter."""
    store.put_segment(PREFIX, 0, segment(7), segment_size=SEGMENT)
    store.put_segment(PREFIX, 0, segment(1), segment_size=SEGMENT)
    store.put_segment(PREFIX, 1, segment(2, 200), segment_size=SEGMENT)
    store.put_segment(PREFIX, 1, segment(3, 100), segment_size=SEGMENT)
    store.publish("1.gz", PREFIX, 2, size_bytes=SEGMENT + 100, segment_size=SEGMENT)
    assert content(store, "1.gz") == b"".join(segment(1) + segment(3, 100))


@pytest.mark.parametrize(
    ("numbers", "count", "size_bytes"),
    [
        ([], 1, SEGMENT),
        ([0, 2], 3, 3 * SEGMENT),
        ([0, 1], 3, 3 * SEGMENT),
        ([0, 1], 2, 2 * SEGMENT - 1),
        ([0, 1], 2, 2 * SEGMENT + 1),
        ([1], 1, SEGMENT),
        ([0], 0, 0),
    ],
    ids=["none", "hole", "end missing", "longer", "shorter", "start missing", "no count"],
)
def test_segments_that_do_not_add_up(store: ObjectStore, numbers: list[int], count: int, size_bytes: int) -> None:
    """Publish makes no object of segments that are missing or of other sizes."""
    for number in numbers:
        store.put_segment(PREFIX, number, segment(number), segment_size=SEGMENT)
    with pytest.raises(Damaged):
        store.publish("1.gz", PREFIX, count, size_bytes=size_bytes, segment_size=SEGMENT)
    assert names(store, "1.gz") == []


def test_a_short_segment_in_the_middle(store: ObjectStore) -> None:
    """Only the last segment may be short, even if the sizes add up."""
    store.put_segment(PREFIX, 0, segment(0, 100), segment_size=SEGMENT)
    store.put_segment(PREFIX, 1, segment(1), segment_size=SEGMENT)
    with pytest.raises(Damaged):
        store.publish("1.gz", PREFIX, 2, size_bytes=SEGMENT + 100, segment_size=SEGMENT)


@pytest.mark.parametrize("size", [0, SEGMENT + 1])
def test_a_segment_of_no_size(store: ObjectStore, size: int) -> None:
    """An empty or too long segment is refused."""
    with pytest.raises(Permanent):
        store.put_segment(PREFIX, 0, [bytes(size)], segment_size=SEGMENT)
    assert names(store) == []


def test_a_segment_of_many_pieces(store: ObjectStore) -> None:
    """A segment may come in more pieces than one system call takes, memoryviews too."""
    pieces: list[bytes | memoryview] = [
        memoryview(bytes([n % 256])) if n % 2 else bytes([n % 256]) for n in range(3000)
    ]
    store.put_segment(PREFIX, 0, pieces, segment_size=SEGMENT)
    store.publish("1.gz", PREFIX, 1, size_bytes=3000, segment_size=SEGMENT)
    assert content(store, "1.gz") == bytes(n % 256 for n in range(3000))


def test_after_publish_only_the_object_is_left(store: ObjectStore) -> None:
    """Once the object and the prefix's listing are deleted, nothing at all is left."""
    store.put_segment(PREFIX, 0, segment(0), segment_size=SEGMENT)
    store.publish("1.gz", PREFIX, 1, size_bytes=SEGMENT, segment_size=SEGMENT)
    for info in [*store.list(PREFIX), *store.list("1.gz")]:
        store.delete(info.name)
    assert names(store) == []


def test_segments_that_were_never_published_can_be_removed(store: ObjectStore) -> None:
    """All that an attempt left is listed under its prefix, and goes when that is deleted; others stay."""
    other = "snaphold/deployment/backup/11/"
    store.put_segment(PREFIX, 0, segment(0), segment_size=SEGMENT)
    store.put_segment(PREFIX, 1, segment(1), segment_size=SEGMENT)
    store.put_segment(other, 0, segment(2, 50), segment_size=SEGMENT)
    assert names(store, PREFIX)
    for name in names(store, PREFIX):
        store.delete(name)
    assert names(store, PREFIX) == []
    store.publish("2.gz", other, 1, size_bytes=50, segment_size=SEGMENT)
    assert content(store, "2.gz") == b"".join(segment(2, 50))


def test_a_missing_object(store: ObjectStore) -> None:
    """Reading what is not there says which object is missing, before the first byte."""
    store.put("a/b", b"1")
    for name in ("none", "a", "a/b/c", "a/c"):
        with pytest.raises(ObjectMissing) as caught:
            next(iter(store.get(name)))
        assert caught.value.name == name
        with pytest.raises(ObjectMissing):
            store.size(name)


def test_deleting_twice(store: ObjectStore) -> None:
    """An object that is gone already is no failure, and neither is one that never was."""
    store.put("a/b/c", b"1")
    store.put("a/d", b"2")
    for name in ("a/b/c", "a/b/c", "a/b", "a", "x"):
        store.delete(name)
    assert names(store) == ["a/d"]


def test_a_name_can_be_put_again_after_it_was_deleted(store: ObjectStore) -> None:
    """Deleting frees the name."""
    store.put("1.json", b"first")
    store.delete("1.json")
    store.put("1.json", b"second")
    assert content(store, "1.json") == b"second"


def test_an_account_without_a_container(stores: Containers) -> None:
    """Listing and deleting where nothing was ever put is no failure; accounts do not see each other."""
    stores.of("1").put("mine", b"1")
    assert names(stores.of("2")) == []
    stores.of("2").delete("mine")
    assert content(stores.of("1"), "mine") == b"1"


BAD_NAMES = ["", ".", "..", "/a", "a/", "a//b", "a/../b", "./a", "a b", "a\0b", "ä", "a\n", "x" * 201, "a/" * 600 + "a"]


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_a_name_that_is_none(store: ObjectStore, name: str) -> None:
    """No method takes a name that could lead elsewhere, or that another store would not take."""
    calls: list[Callable[[], object]] = [
        lambda: store.put(name, b""),
        lambda: store.replace(name, b""),
        lambda: next(iter(store.get(name))),
        lambda: store.size(name),
        lambda: store.delete(name),
        lambda: store.put_segment(f"{name}/", 0, [b"1"], segment_size=SEGMENT),
        lambda: store.publish(name, PREFIX, 1, size_bytes=1, segment_size=SEGMENT),
        lambda: store.publish("a", f"{name}/", 1, size_bytes=1, segment_size=SEGMENT),
    ]
    for call in calls:
        with pytest.raises(Permanent) as caught:
            call()
        assert not isinstance(caught.value, ObjectMissing | ObjectExists | Damaged)


@pytest.mark.parametrize("account", ["", ".", "..", "a/b", "/", "a\0"], ids=ascii)
def test_an_account_that_is_none(stores: Containers, account: str) -> None:
    """An account's name leads to its own container only."""
    with pytest.raises(Permanent):
        stores.of(account)


@pytest.mark.parametrize("prefix", ["../", "/", "a/../", "a b"])
def test_listing_what_no_name_starts_with(store: ObjectStore, prefix: str) -> None:
    """A prefix that would lead out of the container is refused."""
    with pytest.raises(Permanent):
        next(store.list(prefix), None)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25)
@given(data=st.data(), found=st.lists(NAMES, max_size=12, unique=True))
def test_list_is_the_sorted_names_with_the_prefix(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, found: list[str], which: str
) -> None:
    """``list`` shows exactly the names that start with the prefix, in the order of their bytes."""
    store = IMPLEMENTATIONS[which](tmp_path_factory.mktemp("root")).of("1")
    kept = [name for name in found if not any(other.startswith(name + "/") for other in found)]
    for name in kept:
        store.put(name, name.encode())
    prefix = data.draw(st.sampled_from([*(name[:end] for name in kept for end in range(len(name) + 1)), "", "b/"]))
    assert names(store, prefix) == sorted(name for name in kept if name.startswith(prefix))
    for name in kept:
        store.delete(name)
    assert names(store) == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(data=st.data())
def test_any_range_is_a_slice(ranged: tuple[ObjectStore, bytes], data: st.DataObject) -> None:
    """``get`` of a range is the slice of the whole, in pieces of at most 4 MiB; past the end there is nothing."""
    store, whole = ranged
    start = data.draw(st.integers(0, len(whole) + 10))
    length = data.draw(st.none() | st.integers(0, len(whole) + 10))
    pieces = list(store.get("big", start, length))
    assert b"".join(pieces) == whole[start : None if length is None else start + length]
    assert all(0 < len(piece) <= 4 << 20 for piece in pieces)


@pytest.fixture(params=IMPLEMENTATIONS)
def which(request: pytest.FixtureRequest) -> str:
    """The name of an implementation."""
    return str(request.param)


@pytest.fixture(scope="module", params=IMPLEMENTATIONS)
def ranged(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ObjectStore, bytes]]:
    """A store with an object of a little more than two pieces, and its bytes."""
    store = IMPLEMENTATIONS[request.param](tmp_path_factory.mktemp("ranged")).of("1")
    whole = bytes(range(251)) * (9 * (1 << 20) // 251)
    store.put("big", whole)
    yield store, whole
    store.delete("big")


@pytest.mark.parametrize(("start", "length"), [(-1, None), (0, -1)])
def test_a_range_that_is_none(store: ObjectStore, start: int, length: int | None) -> None:
    """A negative range is refused."""
    store.put("a", b"123")
    with pytest.raises(Permanent):
        next(store.get("a", start, length), None)


@pytest.mark.parametrize("which_region", OF_REGIONS)
def test_accounts_are_those_with_a_container(tmp_path: Path, which_region: str) -> None:
    """Whoever has put something is listed, by name; asking for a container makes none."""
    stores = OF_REGIONS[which_region](tmp_path / "root")
    assert list(stores.accounts()) == []
    stores.of("unused")
    for account in ("b", "a.1", "9"):
        stores.of(account).put("x", b"")
    assert list(stores.accounts()) == ["9", "a.1", "b"]
