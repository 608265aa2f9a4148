"""Wraps a store, and retries what fails temporarily."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import tenacity

from snaphold.errors import ObjectExists, Transient
from snaphold.objects import SEGMENT_SIZE, ObjectInfo
from snaphold.store.base import Containers, ObjectStore, OwnStore, Stores

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """Retries after a ``Transient``, up to ``attempts`` calls in all.

    The wait doubles from ``first_wait_s`` up to ``longest_wait_s``, with up to ``first_wait_s`` of jitter; the defaults
    bridge an outage of about a minute. A failure that comes ``longest_total_s`` or more after the first one is final.
    (The first attempt does not count, because the data to be written may arrive slowly.) ``sleep`` takes seconds.
    """

    attempts: int = 10
    first_wait_s: float = 0.2
    longest_wait_s: float = 15.0
    longest_total_s: float = 120.0
    sleep: Callable[[float], None] = time.sleep

    def call(self, attempt: Callable[[], Result]) -> Result:
        """Return the result of the first attempt that succeeds. Raises the last ``Transient``."""
        failed_s: list[float] = []  # when each attempt failed

        def is_enough(state: tenacity.RetryCallState) -> bool:
            failed_s.append(state.outcome_timestamp or 0.0)
            return len(failed_s) >= self.attempts or failed_s[-1] - failed_s[0] >= self.longest_total_s

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(Transient),
            wait=tenacity.wait_exponential(self.first_wait_s, self.longest_wait_s)
            + tenacity.wait_random(0, self.first_wait_s),
            stop=is_enough,
            sleep=self.sleep,
            reraise=True,
        )
        return retrying(attempt)

    def resumed(self, begin: Callable[[], Iterator[Result]]) -> Iterator[Result]:
        """Yield all items, and resume after a ``Transient``; each item that arrives resets the count of attempts.

        ``begin`` is called at the start and for each resumption; it leaves out the items that were yielded before.
        """
        source: Iterator[Result] = iter(())
        broke: Transient | None = None  # the first attempt to yield the next item, which has failed already

        def step() -> Result | None:
            nonlocal source, broke
            if broke is not None:
                error, broke = broke, None
                raise error
            source = begin()
            return next(source, None)

        while (item := self.call(step)) is not None:
            yield item
            try:
                yield from source  # adds no cost while nothing fails
            except Transient as error:
                broke = error
            else:
                return


_DEFAULT: Final = RetryPolicy()


class RetryingContainers:
    """The containers of all accounts, with retries."""

    def __init__(self, stores: Containers, retry_policy: RetryPolicy = _DEFAULT) -> None:
        self._containers = stores
        self._retry_policy = retry_policy

    def of(self, account: str) -> "Retrying":
        """Return this account's container."""
        return Retrying(self._containers.of(account), self._retry_policy)


class RetryingStores(RetryingContainers):
    """The containers of a region's own store, with retries."""

    def __init__(self, stores: Stores, retry_policy: RetryPolicy = _DEFAULT) -> None:
        super().__init__(stores, retry_policy)
        self._stores = stores

    def of(self, account: str) -> "RetryingOwn":
        """Return this account's container."""
        return RetryingOwn(self._stores.of(account), self._retry_policy)

    def accounts(self) -> Iterator[str]:
        """Resumes after the last account that was returned."""
        last = ""

        def begin() -> Iterator[str]:
            return (account for account in self._stores.accounts() if account > last)

        for account in self._retry_policy.resumed(begin):
            last = account
            yield account


class Retrying:
    """An :class:`snaphold.store.base.ObjectStore` that retries after a ``Transient``.

    ``get`` resumes at the byte, and ``list`` at the name, where it was interrupted.
    """

    def __init__(self, store: ObjectStore, retry_policy: RetryPolicy = _DEFAULT) -> None:
        self._store = store
        self._retry_policy = retry_policy

    def put_segment(
        self, prefix: str, number: int, data: Iterable[bytes | memoryview], *, segment_size: int = SEGMENT_SIZE
    ) -> None:
        """Putting a segment again replaces it."""
        self._retry_policy.call(lambda: self._store.put_segment(prefix, number, data, segment_size=segment_size))

    def publish(self, name: str, prefix: str, count: int, *, size_bytes: int, segment_size: int = SEGMENT_SIZE) -> None:
        """If the name is taken at a later attempt, by an object of this size, an earlier attempt succeeded."""
        self._once(
            lambda: self._store.publish(name, prefix, count, size_bytes=size_bytes, segment_size=segment_size),
            lambda: self._store.size(name) == size_bytes,
        )

    def put(self, name: str, data: bytes) -> None:
        """If the name is taken at a later attempt, by the same bytes, an earlier attempt succeeded."""
        self._once(lambda: self._store.put(name, data), lambda: b"".join(self._store.get(name)) == data)

    def replace(self, name: str, data: bytes) -> None:
        """Replacing an object again has no effect."""
        self._retry_policy.call(lambda: self._store.replace(name, data))

    def get(self, name: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Resumes at the byte where it was interrupted."""
        position = start

        def begin() -> Iterator[bytes]:
            return self._store.get(name, position, None if length is None else start + length - position)

        for piece in self._retry_policy.resumed(begin):
            position += len(piece)
            yield piece

    def sha256(self, name: str, start: int = 0, length: int | None = None) -> str:
        """Ask the store."""
        return self._retry_policy.call(lambda: self._store.sha256(name, start, length))

    def segment_sha256(self, prefix: str, number: int, size_bytes: int, *, segment_size: int = SEGMENT_SIZE) -> str:
        """Ask the store."""
        return self._retry_policy.call(
            lambda: self._store.segment_sha256(prefix, number, size_bytes, segment_size=segment_size)
        )

    def size(self, name: str) -> int:
        """Ask the store."""
        return self._retry_policy.call(lambda: self._store.size(name))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Resumes after the last name that was returned."""
        last = ""

        def begin() -> Iterator[ObjectInfo]:
            return (info for info in self._store.list(prefix) if info.name > last)

        for info in self._retry_policy.resumed(begin):
            last = info.name
            yield info

    def delete(self, name: str) -> None:
        """Deleting an object again has no effect."""
        self._retry_policy.call(lambda: self._store.delete(name))

    def _once(self, attempt: Callable[[], None], was_ours: Callable[[], bool]) -> None:
        tries = 0

        def step() -> None:
            nonlocal tries
            tries += 1
            try:
                attempt()
            except ObjectExists:
                if tries == 1 or not was_ours():
                    raise

        self._retry_policy.call(step)


class RetryingOwn(Retrying):
    """An :class:`snaphold.store.base.OwnStore` that retries after a ``Transient``."""

    def __init__(self, store: OwnStore, retry_policy: RetryPolicy = _DEFAULT) -> None:
        super().__init__(store, retry_policy)
        self._own = store

    def replace_segments(
        self,
        name: str,
        segments: Iterable[tuple[int, Sequence[bytes | memoryview]]],
        *,
        size_bytes: int,
        segment_size: int = SEGMENT_SIZE,
    ) -> None:
        """Replacing the same segments again has no effect."""
        self._retry_policy.call(
            lambda: self._own.replace_segments(name, segments, size_bytes=size_bytes, segment_size=segment_size)
        )
