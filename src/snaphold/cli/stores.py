"""Which object stores a region has, and ``snaphold store``: what lies in them."""

import json
import sys
from collections.abc import Sequence

from snaphold.cli.admin import one_region
from snaphold.cli.logs import set_up_logs
from snaphold.cli.options import Given
from snaphold.cli.state import StateDirectory
from snaphold.store.base import Stores
from snaphold.store.local import LocalStores
from snaphold.store.retrying import RetryingStores


def stores_of(state: StateDirectory, region: str) -> Stores:
    """The object stores of a region, with passing faults ridden out."""
    return RetryingStores(LocalStores(state.store(region)))


def check_store(given: Given, accounts: Sequence[str]) -> None:
    """Print what belongs to no backup in the catalog; ``accounts`` empty: of all that have a container."""
    from snaphold.cli.control import opened_deployment  # noqa: PLC0415
    from snaphold.worker.orphans import OrphanScanner  # noqa: PLC0415

    set_up_logs(given.settings, "store")
    state = given.state
    state.require()
    region = one_region(given, state)
    with opened_deployment(given.settings, state, region) as deployment:
        grace_us = int(given.settings.sweep_grace_s * 1_000_000)
        scanner = OrphanScanner(deployment.catalog, stores_of(state, region), deployment.deployment_id, grace_us)
        found = [one.to_json() for one in scanner.look(accounts or None)]
        told = {"region": region, "deployment": deployment.deployment_id, "accounts": found}
    sys.stdout.write(json.dumps(told, indent=1) + "\n")
