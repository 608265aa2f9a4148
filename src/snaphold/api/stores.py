"""The parts of object stores that the API uses. The process that builds the application passes implementations."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from snaphold.objects import ObjectInfo
from snaphold.protocol import BackupResult, PeerRecord


class ObjectReader(Protocol):
    """Reads objects of accounts' containers.

    Both methods may raise ``Transient`` (the store does not answer), ``Permanent`` (it refuses) and ``ObjectMissing``.
    """

    def size(self, account: str, name: str) -> int:
        """The object's length in bytes."""

    def get(self, account: str, name: str, start: int, length: int | None) -> Iterator[bytes]:
        """The object's bytes from ``start`` on, in pieces: ``length`` bytes, or all of them (None)."""


class StoredBackups(Protocol):
    """Compares what is reported of completed backups with the objects in this region's own store.

    Both methods return why the store has no such backup; None: it has it. They may raise ``Transient``.
    """

    def fault_of_result(self, account: str, backup_id: str, result: BackupResult) -> str | None:
        """Check what a host reports of a backup that it has completed."""

    def fault_of_record(self, record: PeerRecord) -> str | None:
        """Check what a peer reports of a copy that it has completed."""


class Container(Protocol):
    """The objects of one account, as peers use them. The store's own interface documents each method."""

    def put_segment(self, prefix: str, number: int, data: Sequence[bytes | memoryview], *, segment_size: int) -> None:
        """Store a segment."""

    def segment_sha256(self, prefix: str, number: int, size_bytes: int, *, segment_size: int) -> str:
        """The hash of a segment."""

    def publish(self, name: str, prefix: str, count: int, *, size_bytes: int, segment_size: int) -> None:
        """Join segments into an object."""

    def put(self, name: str, data: bytes) -> None:
        """Store a small object."""

    def replace(self, name: str, data: bytes) -> None:
        """Store a small object, in place of another if there is one."""

    def get(self, name: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """An object's bytes."""

    def sha256(self, name: str, start: int = 0, length: int | None = None) -> str:
        """The hash of an object's bytes."""

    def size(self, name: str) -> int:
        """An object's length."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """The objects whose names start with the prefix."""

    def delete(self, name: str) -> None:
        """Remove an object."""
