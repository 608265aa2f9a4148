"""Builds the object stores of a region, and what checks them."""

from typing import Final

from snaphold.config import Settings
from snaphold.formats.stored_backups import StoredBackups
from snaphold.store.base import Stores
from snaphold.store.gates import CircuitBreaker, LocalStoreGate
from snaphold.store.local import LocalStores
from snaphold.store.retrying import RetryingStores
from snaphold.wiring.state_directory import StateDirectory

_REST_S: Final = 10.0  # before a store that timed out is tried again


def stores_of(state: StateDirectory, region: str) -> Stores:
    """The object stores of a region. They retry after a ``Transient`` error."""
    return RetryingStores(LocalStores(state.store(region)))


def stored_backups_of(state: StateDirectory, region: str) -> StoredBackups:
    """The published backups of a region. They do not retry, because a caller waits for the answer."""
    return StoredBackups(LocalStores(state.store(region)))


def store_gate_of(settings: Settings, state: StateDirectory, region: str) -> CircuitBreaker:
    """The gate of a region's object store."""
    return CircuitBreaker(LocalStoreGate(state.store(region)), timeout_s=settings.store_timeout_s, rest_s=_REST_S)
