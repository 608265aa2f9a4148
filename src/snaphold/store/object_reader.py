"""Reads the objects of any account's container."""

from collections.abc import Iterator

from snaphold.store.base import Containers


class StoreObjectReader:
    """Reads objects for ``GET <locationRef>``. Implements ``api.ObjectReader``."""

    def __init__(self, containers: Containers) -> None:
        self._containers = containers

    def size(self, account: str, name: str) -> int:
        """The object's length in bytes."""
        return self._containers.of(account).size(name)

    def get(self, account: str, name: str, start: int, length: int | None) -> Iterator[bytes]:
        """The object's bytes from ``start`` on, ``length`` of them or all, in pieces."""
        return self._containers.of(account).get(name, start, length)
