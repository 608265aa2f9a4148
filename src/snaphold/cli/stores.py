"""Which object stores a region has."""

from snaphold.cli.state import StateDirectory
from snaphold.store.base import Stores
from snaphold.store.local import LocalStores
from snaphold.store.retrying import RetryingStores


def stores_of(state: StateDirectory, region: str) -> Stores:
    """The object stores of a region, with passing faults ridden out."""
    return RetryingStores(LocalStores(state.store(region)))
