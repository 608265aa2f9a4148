"""The object store as the rest of the project sees it."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from snaphold.objects import ObjectInfo


class ObjectStore(Protocol):
    """One account's container ``z_CLOUDDB_BACKUPS``. Every implementation passes tests/contracts/test_object_store.py.

    Names are relative, ``/``-separated, of ``[A-Za-z0-9._-]`` parts, none of them ``.`` or ``..``.
    The container is made by the first write. Every method may raise ``Transient`` (silent, overloaded, full for now)
    and ``Permanent`` (refused); nothing is half done when it does.
    """

    def put_segment(self, prefix: str, number: int, data: Iterable[bytes | memoryview]) -> None:
        """Keep segment ``number`` (from 0) under ``prefix``; durable when this returns. Putting it again replaces it.

        All segments but the last have SEGMENT_SIZE bytes. Called from several threads, for different numbers.
        ``data`` can be iterated again, where the store has to try again; its next piece may be long in coming. What it
        raises is raised, and the segment, or one that was put before, is nobody's to use then.
        """

    def publish(self, name: str, prefix: str, count: int, *, size_bytes: int) -> None:
        """Make the first ``count`` segments under ``prefix`` appear as the object ``name``, atomically and durably.

        Raises ``ObjectExists`` when the name is taken; ``Damaged`` when the segments do not add up to ``size_bytes``.
        """

    def put(self, name: str, data: bytes) -> None:
        """Keep a small object, atomically and durably. Raises ``ObjectExists`` when the name is taken."""

    def replace(self, name: str, data: bytes) -> None:
        """Keep a small object, atomically and durably, in the place of what has the name; readers see either one."""

    def get(self, name: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """The bytes of an object (or of a range of it), in pieces of at most 4 MiB.

        Raises ``ObjectMissing`` before the first piece; ``Transient`` when fewer bytes come than are there.
        """

    def sha256(self, name: str, start: int = 0, length: int | None = None) -> str:
        """The SHA-256 (hexadecimal) of an object's bytes, or of a range of them, read where they lie.

        Raises ``ObjectMissing``; ``Transient`` when fewer bytes come than are there.
        """

    def segment_sha256(self, prefix: str, number: int, size_bytes: int) -> str:
        """The same of a segment that was put and is not published yet.

        Raises ``ObjectMissing`` when there is none of exactly ``size_bytes``.
        """

    def size(self, name: str) -> int:
        """The object's length in bytes. Raises ``ObjectMissing``."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Every object (segments too) whose name starts with ``prefix``, by name; none where there is no container."""

    def delete(self, name: str) -> None:
        """Remove an object durably; one that is already gone is no failure."""


class OwnStore(ObjectStore, Protocol):
    """One container of a region's own store, which alone may be repaired."""

    def overwrite(self, name: str, start: int, data: Sequence[bytes | memoryview], *, size_bytes: int) -> None:
        """Write these bytes into an object from ``start`` on, and make it ``size_bytes`` long; durable then.

        For repairing what was damaged: a crash leaves the range in any state, and all
        bytes outside of it as they were. Raises ``ObjectMissing``.
        """


class Containers(Protocol):
    """Hands out each account's store. Every implementation passes tests/contracts/test_object_store.py."""

    def of(self, account: str) -> ObjectStore:
        """The container of this account."""


class Stores(Containers, Protocol):
    """All containers of a region's own. Every implementation passes the same tests."""

    def of(self, account: str) -> OwnStore:
        """The container of this account."""

    def accounts(self) -> Iterator[str]:
        """Every account that has a container, by name. Raises ``Transient``, ``Permanent``."""


def sha256_of_pieces(pieces: Iterable[bytes]) -> str:
    """The SHA-256 (hexadecimal) of these bytes, one piece behind the other."""
    sha256 = hashlib.sha256()
    for piece in pieces:
        sha256.update(piece)
    return sha256.hexdigest()
