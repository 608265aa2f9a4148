"""The fake of the object store: it passes the contract suite, and fails on request."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from snaphold.errors import Damaged, ObjectExists, ObjectMissing, Permanent, Transient
from snaphold.objects import (
    SEGMENT_SIZE,
    ObjectInfo,
    check_account,
    check_list_prefix,
    check_name,
    check_prefix,
)
from snaphold.store.base import sha256_of_pieces

PIECE = 4 << 20  # bytes
Item = TypeVar("Item")


@dataclass
class Fault:
    """Raise ``error`` at calls ``first`` to ``last`` (from 1) of ``method``; what hands on items after some of them."""

    method: str
    error: Exception = field(default_factory=lambda: Transient("the store is silent"))
    first: int = 1
    last: int = 1
    after: int = 0  # items that get, list or accounts hand on before it
    done: bool = False  # whether the work was done all the same, and only the answer was lost


class MemoryStores:
    """The containers of all accounts, in memory. ``faults`` are those of ``accounts``; each container has its own."""

    def __init__(self) -> None:
        self.calls: dict[str, int] = defaultdict(int)
        self.faults: list[Fault] = []
        self._stores: dict[str, MemoryStore] = {}

    def of(self, account: str) -> "MemoryStore":
        """The container of this account; the same object each time."""
        return self._stores.setdefault(check_account(account), MemoryStore())

    def accounts(self) -> Iterator[str]:
        """Those who have put something."""
        fault = _fault_of(self.faults, self.calls, "accounts")
        return _broken(iter(sorted(account for account, store in self._stores.items() if store.objects)), fault)


class MemoryStore:
    """One container in memory. ``objects`` (segments too) may be looked at and damaged by a test."""

    def __init__(self, *, piece: int = PIECE) -> None:
        self.objects: dict[str, bytes] = {}
        self.calls: dict[str, int] = defaultdict(int)
        self.faults: list[Fault] = []
        self.in_flight = 0  # put_segment calls under way
        self.most_in_flight = 0
        self.on_call: Callable[[str], None] = lambda _: None  # told of each call, with the method's name
        self.gate: threading.Event | None = None  # put_segment waits for it
        self._seen: dict[str, tuple[bytes, float]] = {}  # contents, and when they were listed first
        self._piece = piece
        self._lock = threading.Lock()

    def put_segment(
        self, prefix: str, number: int, data: Iterable[bytes | memoryview], *, segment_size: int = SEGMENT_SIZE
    ) -> None:
        """Keep a segment as an object of its own."""
        check_prefix(prefix)
        content = b"".join(data)
        if not 0 < len(content) <= segment_size or number < 0:
            raise Permanent("no segment")
        with self._lock:
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            if self.gate is not None:
                assert self.gate.wait(30), "nobody opened the gate"
            fault = self._called("put_segment")
            if fault is None or fault.done:
                with self._lock:
                    self.objects[f"{prefix}{number:08d}"] = content
            _raise(fault)
        finally:
            with self._lock:
                self.in_flight -= 1

    def publish(self, name: str, prefix: str, count: int, *, size_bytes: int, segment_size: int = SEGMENT_SIZE) -> None:
        """Join the segments to the object."""
        check_name(name)
        check_prefix(prefix)
        fault = self._called("publish")
        if fault is not None and not fault.done:
            raise fault.error
        with self._lock:
            if name in self.objects:
                raise ObjectExists(name)
            parts = [self.objects.get(f"{prefix}{number:08d}", b"") for number in range(count)]
            whole = all(len(part) == segment_size for part in parts[:-1]) and all(parts)
            if not parts or not whole or sum(map(len, parts)) != size_bytes:
                raise Damaged(name)
            self.objects[name] = b"".join(parts)
            for key in [key for key in self.objects if key.startswith(prefix)]:
                del self.objects[key]
        _raise(fault)

    def put(self, name: str, data: bytes) -> None:
        """Keep an object."""
        check_name(name)
        fault = self._called("put")
        if fault is None or fault.done:
            with self._lock:
                if name in self.objects:
                    raise ObjectExists(name)
                self.objects[name] = bytes(data)
        _raise(fault)

    def replace(self, name: str, data: bytes) -> None:
        """Keep an object in the place of another."""
        check_name(name)
        fault = self._called("replace")
        if fault is None or fault.done:
            with self._lock:
                self.objects[name] = bytes(data)
        _raise(fault)

    def replace_segments(
        self,
        name: str,
        segments: Iterable[tuple[int, Sequence[bytes | memoryview]]],
        *,
        size_bytes: int,
        segment_size: int = SEGMENT_SIZE,
    ) -> None:
        """Replace segments of an object."""
        check_name(name)
        fault = self._called("replace_segments")
        if fault is None or fault.done:
            if name not in self.objects:
                raise ObjectMissing(name)
            new = bytearray(self.objects[name])
            for number, pieces in segments:
                start, content = number * segment_size, b"".join(pieces)
                if start < 0 or len(content) > segment_size or start + len(content) > size_bytes:
                    raise Permanent("no place")
                new[start : start + len(content)] = content.rjust(len(content) + max(0, start - len(new)), b"\0")
            with self._lock:
                self.objects[name] = bytes(new[:size_bytes].ljust(size_bytes, b"\0"))
        _raise(fault)

    def get(self, name: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """The bytes, in pieces."""
        check_name(name)
        if start < 0 or (length is not None and length < 0):
            raise Permanent("no range")
        fault = self._called("get")
        if name not in self.objects:
            raise ObjectMissing(name)
        content = self.objects[name][start : None if length is None else start + length]
        pieces = (content[at : at + self._piece] for at in range(0, len(content), self._piece))
        return _broken(pieces, fault)

    def sha256(self, name: str, start: int = 0, length: int | None = None) -> str:
        """Of the bytes."""
        return sha256_of_pieces(self.get(name, start, length))

    def segment_sha256(
        self,
        prefix: str,
        number: int,
        size_bytes: int,
        *,
        segment_size: int = SEGMENT_SIZE,  # noqa: ARG002 - each segment is an object of its own
    ) -> str:
        """Of the object that it is."""
        name = f"{check_prefix(prefix)}{number:08d}"
        with self._lock:
            if len(self.objects.get(name, b"")) != size_bytes:
                raise ObjectMissing(name)
        return self.sha256(name)

    def size(self, name: str) -> int:
        """The length in bytes."""
        check_name(name)
        _raise(self._called("size"))
        if name not in self.objects:
            raise ObjectMissing(name)
        return len(self.objects[name])

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """The objects, by name."""
        check_list_prefix(prefix)
        fault = self._called("list")
        found = sorted(item for item in self.objects.items() if item[0].startswith(prefix))
        return _broken(
            (
                ObjectInfo(name=name, size_bytes=len(data), modified_s=self._modified_s(name, data))
                for name, data in found
            ),
            fault,
        )

    def _modified_s(self, name: str, data: bytes) -> float:
        """When the object was listed for the first time since it got these contents."""
        with self._lock:
            if name not in self._seen or self._seen[name][0] is not data:
                self._seen[name] = data, time.time()
            return self._seen[name][1]

    def delete(self, name: str) -> None:
        """Remove the object."""
        check_name(name)
        fault = self._called("delete")
        if fault is None or fault.done:
            with self._lock:
                self.objects.pop(name, None)
        _raise(fault)

    def _called(self, method: str) -> Fault | None:
        self.on_call(method)
        with self._lock:
            return _fault_of(self.faults, self.calls, method)


def _fault_of(faults: Sequence[Fault], calls: dict[str, int], method: str) -> Fault | None:
    """The fault of one more call."""
    calls[method] += 1
    return next((f for f in faults if f.method == method and f.first <= calls[method] <= f.last), None)


def _broken(items: Iterator[Item], fault: Fault | None) -> Iterator[Item]:
    for number, item in enumerate(items):
        if fault is not None and number == fault.after:
            raise fault.error
        yield item
    _raise(fault)


def _raise(fault: Fault | None) -> None:
    if fault is not None:
        raise fault.error
