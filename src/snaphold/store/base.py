"""The object store as the rest of the project sees it."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from snaphold.objects import SEGMENT_SIZE, ObjectInfo


class ObjectStore(Protocol):
    """One account's container. Every implementation passes tests/contracts/test_object_store.py.

    Names are relative and ``/``-separated (:mod:`snaphold.objects`). The first write creates the container.
    Every method may raise ``Transient`` (the store does not answer, is overloaded or full for now) and ``Permanent``
    (it refuses); nothing is half done then.

    A large object is written as segments under a prefix and then published. Whoever writes it chooses
    ``segment_size``, in bytes, and passes the same one to every call for the same prefix.
    """

    def put_segment(
        self, prefix: str, number: int, data: Iterable[bytes | memoryview], *, segment_size: int = SEGMENT_SIZE
    ) -> None:
        """Store segment ``number`` (from 0) under ``prefix``; it is durable when this returns.

        Putting a segment again replaces it. All segments but the last have exactly ``segment_size`` bytes. May be
        called by several threads at once for different numbers.

        ``data`` can be iterated again, in case the store has to start over; its next piece may take long to arrive.
        An exception that ``data`` raises is passed on; the segment, and any earlier one with this number, must not be
        used after that.
        """

    def publish(self, name: str, prefix: str, count: int, *, size_bytes: int, segment_size: int = SEGMENT_SIZE) -> None:
        """Make the first ``count`` segments under ``prefix`` the object ``name``, atomically and durably.

        Raises ``ObjectExists`` when the name is taken; ``Damaged`` when the segments do not add up to ``size_bytes``.
        """

    def put(self, name: str, data: bytes) -> None:
        """Store a small object, atomically and durably. Raises ``ObjectExists`` when the name is taken."""

    def replace(self, name: str, data: bytes) -> None:
        """Store a small object, atomically and durably, and replace any object of this name.

        A reader gets the old bytes or the new ones.
        """

    def get(self, name: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Return the bytes of an object, or of a range of it, in pieces of at most 4 MiB.

        Raises ``ObjectMissing`` before the first piece; ``Transient`` when fewer bytes arrive than the object has.
        """

    def sha256(self, name: str, start: int = 0, length: int | None = None) -> str:
        """Return the SHA-256 (hexadecimal) of an object, or of a range of it, without transferring its bytes.

        Raises ``ObjectMissing``; ``Transient`` when fewer bytes can be read than the object has.
        """

    def segment_sha256(self, prefix: str, number: int, size_bytes: int, *, segment_size: int = SEGMENT_SIZE) -> str:
        """Return the SHA-256 (hexadecimal) of a segment that has not been published yet.

        Raises ``ObjectMissing`` when no segment of exactly ``size_bytes`` exists.
        """

    def size(self, name: str) -> int:
        """Return the object's length in bytes. Raises ``ObjectMissing``."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Return every object, segments included, whose name starts with ``prefix``, ordered by name.

        A container that does not exist has no objects.
        """

    def delete(self, name: str) -> None:
        """Remove an object durably. Removing an object that does not exist is not an error."""


class OwnStore(ObjectStore, Protocol):
    """One container of a region's own store, the only kind that is repaired."""

    def replace_segments(
        self,
        name: str,
        segments: Iterable[tuple[int, Sequence[bytes | memoryview]]],
        *,
        size_bytes: int,
        segment_size: int = SEGMENT_SIZE,
    ) -> None:
        """Replace these segments of a published object, and make it ``size_bytes`` long, atomically and durably.

        A reader gets the old object or the new one, and so does whoever looks after a crash. All other bytes stay as
        they were; bytes that a longer object gains are undefined. An object that needs no change is left alone.

        ``segments``: numbers (from 0) and bytes. It can be iterated again, in case the store has to start over; only
        one item is in memory at a time. An exception that it raises is passed on, and the object stays as it was.
        Not to be called twice at once for one object. A store may need as much free space as the object has bytes.

        Raises ``ObjectMissing``.
        """


class Containers(Protocol):
    """The containers of all accounts. Every implementation passes tests/contracts/test_object_store.py."""

    def of(self, account: str) -> ObjectStore:
        """Return this account's container. Raises ``Permanent`` when the account cannot have this name."""


class Stores(Containers, Protocol):
    """The containers of a region's own store. Every implementation passes the same tests."""

    def of(self, account: str) -> OwnStore:
        """Return this account's container. Raises ``Permanent`` when the account cannot have this name."""

    def accounts(self) -> Iterator[str]:
        """Return every account that has a container, ordered by name. Raises ``Transient``, ``Permanent``."""


def sha256_of_pieces(pieces: Iterable[bytes]) -> str:
    """Return the SHA-256 (hexadecimal) of the concatenated pieces."""
    sha256 = hashlib.sha256()
    for piece in pieces:
        sha256.update(piece)
    return sha256.hexdigest()
