"""Riding out the passing faults of a store."""

import time
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snaphold.errors import ObjectExists, ObjectMissing, Permanent, Transient
from snaphold.objects import SEGMENT_SIZE
from snaphold.store.retrying import Retrying, RetryingStores, RetryPolicy
from tests.fakes.memory_store import Fault, MemoryStore, MemoryStores

PREFIX = "snaphold/d/b/1/"


class Naps:
    """A clock that keeps the waits instead of waiting."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __call__(self, seconds: float) -> None:
        """Wait no time at all."""
        self.seconds.append(seconds)


@pytest.fixture
def memory() -> MemoryStore:
    """The store that fails, with pieces of three bytes."""
    return MemoryStore(piece=3)


@pytest.fixture
def naps() -> Naps:
    """The waits."""
    return Naps()


@pytest.fixture
def store(memory: MemoryStore, naps: Naps) -> Retrying:
    """The store that rides faults out, three attempts a call."""
    return Retrying(memory, RetryPolicy(attempts=3, first_wait_s=1, longest_wait_s=8, sleep=naps))


CALLS: dict[str, Callable[[Retrying], object]] = {
    "put": lambda store: store.put("new", b"1"),
    "replace": lambda store: store.replace("old", b"1"),
    "put_segment": lambda store: store.put_segment(PREFIX, 1, [b"1"]),
    "publish": lambda store: store.publish("whole", PREFIX, 1, size_bytes=5),
    "get": lambda store: b"".join(store.get("old")),
    "size": lambda store: store.size("old"),
    "list": lambda store: [info.name for info in store.list("")],
    "delete": lambda store: store.delete("old"),
}


def test_what_is_put_may_be_long_in_coming(memory: MemoryStore, naps: Naps) -> None:
    """The time that the bytes take to come is not the store's: it is asked again after its first failure."""
    retry_policy = RetryPolicy(attempts=3, longest_total_s=0.1, sleep=naps)
    memory.faults = [Fault("put_segment")]

    class Slow(MemoryStore):
        def put_segment(
            self, prefix: str, number: int, data: Iterable[bytes | memoryview], *, segment_size: int = SEGMENT_SIZE
        ) -> None:
            time.sleep(0.3)  # what waiting for the next piece is like
            memory.put_segment(prefix, number, data, segment_size=segment_size)

    Retrying(Slow(), retry_policy).put_segment(PREFIX, 0, [b"1"])
    assert memory.calls["put_segment"] == 2


@pytest.mark.parametrize("method", CALLS)
@pytest.mark.parametrize("lost", ["work", "answer"])
def test_two_faults_and_then_an_answer(store: Retrying, memory: MemoryStore, method: str, lost: str) -> None:
    """A call that fails in passing succeeds at a later attempt, even when only the answer was lost."""
    memory.objects = {"old": b"12345678", f"{PREFIX}{0:08d}": b"12345"}
    memory.faults = [Fault(method, last=2, done=lost == "answer")]
    result = CALLS[method](store)
    assert memory.calls[method] == (2 if lost == "answer" and method in {"put", "publish"} else 3)
    if method == "get":
        assert result == b"12345678"
    if method == "publish":
        assert memory.objects["whole"] == b"12345"


@pytest.mark.parametrize("method", CALLS)
def test_a_store_that_stays_silent(store: Retrying, memory: MemoryStore, naps: Naps, method: str) -> None:
    """After the last attempt the fault is handed on as it is; waits grow, with jitter, and are bounded."""
    memory.objects = {"old": b"12345678", f"{PREFIX}{0:08d}": b"12345"}
    memory.faults = [Fault(method, last=99)]
    with pytest.raises(Transient, match="silent"):
        CALLS[method](store)
    assert memory.calls[method] == 3
    first, second = naps.seconds
    assert 1 <= first <= 2 <= second <= 3


@pytest.mark.parametrize("method", CALLS)
def test_what_is_refused_is_not_asked_again(store: Retrying, memory: MemoryStore, naps: Naps, method: str) -> None:
    """Only a passing fault is worth another attempt."""
    memory.objects = {"old": b"12345678", f"{PREFIX}{0:08d}": b"12345"}
    memory.faults = [Fault(method, Permanent("the store refused"), last=99)]
    with pytest.raises(Permanent, match="refused"):
        CALLS[method](store)
    assert (memory.calls[method], naps.seconds) == (1, [])


def test_a_missing_object_is_not_asked_for_again(store: Retrying, memory: MemoryStore) -> None:
    """An answer is an answer."""
    with pytest.raises(ObjectMissing):
        next(store.get("none"))
    assert memory.calls["get"] == 1


def test_a_name_that_somebody_else_took(store: Retrying, memory: MemoryStore) -> None:
    """After a lost answer, a name taken with other bytes is still somebody else's."""
    memory.objects = {"new": b"theirs", "whole": b"theirs", f"{PREFIX}{0:08d}": b"12345"}
    memory.faults = [Fault("put"), Fault("publish")]
    with pytest.raises(ObjectExists):
        store.put("new", b"ours")
    with pytest.raises(ObjectExists):
        store.publish("whole", PREFIX, 1, size_bytes=5)
    assert memory.objects["new"] == b"theirs"


@given(
    data=st.binary(max_size=40),
    faults=st.lists(st.integers(0, 5), max_size=6),
    start=st.integers(0, 45),
    length=st.none() | st.integers(0, 45),
)
def test_a_read_goes_on_where_it_broke(data: bytes, faults: list[int], start: int, length: int | None) -> None:
    """However often and wherever a read breaks, each byte comes once and in order."""
    memory = MemoryStore(piece=3)
    memory.objects["a"] = data
    memory.faults = [Fault("get", first=call, last=call, after=after) for call, after in enumerate(faults, 1)]
    store = Retrying(memory, RetryPolicy(sleep=lambda _: None))
    assert b"".join(store.get("a", start, length)) == data[start : None if length is None else start + length]


@given(names=st.lists(st.text("abc", min_size=1), unique=True), faults=st.lists(st.integers(0, 5), max_size=6))
def test_a_listing_goes_on_where_it_broke(names: list[str], faults: list[int]) -> None:
    """However often and wherever a listing breaks, each name comes once and in order."""
    memory = MemoryStore()
    memory.objects = dict.fromkeys(names, b"")
    memory.faults = [Fault("list", first=call, last=call, after=after) for call, after in enumerate(faults, 1)]
    store = Retrying(memory, RetryPolicy(sleep=lambda _: None))
    assert [info.name for info in store.list("")] == sorted(names)


@given(
    accounts=st.lists(st.text("abc", min_size=1, max_size=4), unique=True),
    faults=st.lists(st.integers(0, 5), max_size=6),
)
def test_accounts_are_told_on_where_it_broke(accounts: list[str], faults: list[int]) -> None:
    """However often and wherever the telling of the accounts breaks, each comes once and in order."""
    memory = MemoryStores()
    for account in accounts:
        memory.of(account).put("a", b"")
    memory.faults = [Fault("accounts", first=call, last=call, after=after) for call, after in enumerate(faults, 1)]
    stores = RetryingStores(memory, RetryPolicy(sleep=lambda _: None))
    assert list(stores.accounts()) == sorted(accounts)


def test_accounts_of_a_store_that_stays_silent(naps: Naps) -> None:
    """The fault is handed on after the last attempt."""
    memory = MemoryStores()
    memory.faults = [Fault("accounts", last=99)]
    with pytest.raises(Transient, match="silent"):
        list(RetryingStores(memory, RetryPolicy(attempts=3, sleep=naps)).accounts())
    assert len(naps.seconds) == 2
