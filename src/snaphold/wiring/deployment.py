"""Opens one region of the control plane: its catalog, its queue, its identity, and what works on them."""

import contextlib
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from snaphold.catalog import hosts as host_rows
from snaphold.catalog.database import open_catalog
from snaphold.catalog.identity_db import open_identity_database
from snaphold.config import Settings
from snaphold.identity.embedded import EmbeddedIdentity, open_embedded
from snaphold.model import Rate
from snaphold.queue import Queue
from snaphold.service import limits
from snaphold.service.deployment import Deployment, Peer
from snaphold.wiring.state_directory import StateDirectory
from snaphold.wiring.stores import store_gate_of, stores_of
from snaphold.worker.orphans import OrphanScanner
from snaphold.worker.state_backup import Saver


@contextlib.contextmanager
def opened_deployment(
    settings: Settings, state: StateDirectory, region: str, peers: Mapping[str, Peer] = MappingProxyType({})
) -> Iterator[Deployment]:
    """Open a region's catalog, migrated to this release, and its queue. ``peers``: the regions that copies can go to.

    Raises:
        SetupError: the catalog cannot be opened, or was written by a newer release; or the store does not exist.
    """
    state.require_store(region)
    state.make_store(region)
    catalog = open_catalog(state.catalog(region))
    try:
        with catalog.writing() as tx:
            deployment_id = host_rows.deployment_id(tx, region)
        yield Deployment(
            catalog=catalog,
            queue=Queue(catalog),
            settings=settings,
            region=region,
            deployment_id=deployment_id,
            peers=peers,
            store_gate=store_gate_of(settings, state, region),
        )
    finally:
        catalog.close()


@contextlib.contextmanager
def opened_identity(settings: Settings, state: StateDirectory) -> Iterator[EmbeddedIdentity]:
    """Open the embedded identity of a state directory. Raises ``SetupError`` when it cannot be opened."""
    identity = open_embedded(
        state.path, settings.token_lifetime_s, logins_per_minute=limits.allowed(settings, Rate.LOGINS)
    )
    with contextlib.closing(identity):
        yield identity


@contextlib.contextmanager
def opened_saver(deployment: Deployment, state: StateDirectory) -> Iterator[Saver]:
    """Open what saves a region's state. Raises ``SetupError`` when the identity database cannot be opened."""
    with contextlib.closing(open_identity_database(state.identity)) as identity:
        yield Saver(
            catalog=deployment.catalog,
            identity=identity,
            stores=stores_of(state, deployment.region),
            region=deployment.region,
            deployment_id=deployment.deployment_id,
            keep=deployment.settings.state_backups_kept,
            interval_s=deployment.settings.state_backup_interval_s,
        )


def orphan_scanner_of(deployment: Deployment, state: StateDirectory) -> OrphanScanner:
    """What finds the objects in a region's store that belong to no backup."""
    return OrphanScanner(
        deployment.catalog,
        stores_of(state, deployment.region),
        deployment.deployment_id,
        int(deployment.settings.sweep_grace_s * 1_000_000),
    )
