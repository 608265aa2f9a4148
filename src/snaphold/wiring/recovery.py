"""Brings a region back after the loss of its catalog, or of the whole state directory."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from snaphold.catalog.database import open_catalog
from snaphold.catalog.identity_db import open_identity_database
from snaphold.catalog.saved import adopt_deployment
from snaphold.config import Settings
from snaphold.errors import SetupError
from snaphold.wiring.deployment import opened_deployment
from snaphold.wiring.state_directory import StateDirectory
from snaphold.wiring.stores import stores_of
from snaphold.worker import rebuild, state_backup
from snaphold.worker.rebuild import Rebuilt


@dataclass(frozen=True, kw_only=True)
class RebuiltRegion:
    """A region whose records of backups were made again from the manifests in its store.

    ``state_written``: when the saved state that was restored before had been written; None: none was.
    """

    region: str
    deployment_id: str
    rebuilt: Rebuilt
    state_written: str | None = None


def rebuild_region(
    settings: Settings, state: StateDirectory, region: str, accounts: Sequence[str], adopted: str | None
) -> RebuiltRegion:
    """Make the catalog's records of completed backups again from the manifests in the store.

    ``accounts``: only of these; empty: of all. ``adopted``: the id of the deployment that wrote the backups, which the
    region takes over.

    Raises:
        SetupError: an id is to be taken over while the service runs.
    """
    if adopted is not None:
        _adopt(state, region, adopted)
    with opened_deployment(settings, state, region) as deployment:
        rebuilt = rebuild.rebuild(
            deployment.catalog, stores_of(state, region), deployment.deployment_id, accounts or None
        )
        return RebuiltRegion(region=region, deployment_id=deployment.deployment_id, rebuilt=rebuilt)


def end_rebuild(settings: Settings, state: StateDirectory, region: str) -> bool:
    """Let the sweep of a region go on. Returns whether it was held."""
    with opened_deployment(settings, state, region) as deployment:
        return rebuild.end_rebuild(deployment.catalog, deployment.queue)


def restore_regions(
    state: StateDirectory, regions: Sequence[str], wanted: str, deployment_id: str | None
) -> Iterator[RebuiltRegion]:
    """Restore the saved state of these regions, and the records of their backups, one region after the other.

    ``wanted``: ``latest``, the name of a saved state, or a file with one. ``deployment_id``: whose state, when several
    deployments saved theirs.

    Raises:
        SetupError: a region has no store, or no such state; or the state is another region's.
    """
    for region in regions:  # before anything is made: the state directory may be mistyped
        if not state.store(region).is_dir():
            raise SetupError(f"{state.store(region)}, the store of {region}, is no directory (--store-dir)")
    saved = [(state_backup.stored_state(stores_of(state, region), wanted, deployment_id), region) for region in regions]
    for one, region in saved:
        if one.region != region:
            raise SetupError(f"the saved state is of region {one.region}, not of {region}")
    state.make(regions)
    with state.lock("serve"):
        # Newest first: a user who is in two of them is taken from the first.
        for one, region in sorted(saved, key=lambda pair: pair[0].written, reverse=True):
            yield _restore(state, region, one)


def _restore(state: StateDirectory, region: str, saved: state_backup.State) -> RebuiltRegion:
    with (
        state.without_service(region),
        contextlib.closing(open_catalog(state.catalog(region))) as catalog,
        contextlib.closing(open_identity_database(state.identity)) as identity,
    ):
        state_backup.restore_state(catalog, identity, saved)
        rebuilt = rebuild.rebuild(catalog, stores_of(state, region), saved.deployment)
    return RebuiltRegion(region=region, deployment_id=saved.deployment, rebuilt=rebuilt, state_written=saved.written)


def _adopt(state: StateDirectory, region: str, deployment_id: str) -> None:
    """Take over another deployment's id. Refused while the service runs: its processes would keep the old id."""
    with (
        state.lock("serve"),
        state.without_service(region),
        contextlib.closing(open_catalog(state.catalog(region))) as catalog,
        catalog.writing() as tx,
    ):
        adopt_deployment(tx, deployment_id, region)
