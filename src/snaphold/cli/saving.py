"""``snaphold state``: what the service saves of itself, and its return after the loss of the state directory."""

import contextlib
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from snaphold.cli.logs import set_up_logs
from snaphold.cli.options import Given
from snaphold.cli.state import StateDirectory
from snaphold.config import Settings
from snaphold.errors import SetupError

if TYPE_CHECKING:
    from snaphold.service.deployment import Deployment
    from snaphold.worker.state_backup import Saver, State


@contextlib.contextmanager
def opened_saver(settings: Settings, state: StateDirectory, deployment: "Deployment") -> Iterator["Saver"]:
    """What saves the state of a region. Raises ``SetupError`` where the identity database cannot be opened."""
    from snaphold.catalog.identity_db import open_identity_database  # noqa: PLC0415
    from snaphold.cli.stores import stores_of  # noqa: PLC0415
    from snaphold.worker.state_backup import Saver  # noqa: PLC0415

    with contextlib.closing(open_identity_database(state.identity)) as identity:
        yield Saver(
            catalog=deployment.catalog,
            identity=identity,
            stores=stores_of(state, deployment.region),
            region=deployment.region,
            deployment_id=deployment.deployment_id,
            keep=settings.state_backups_kept,
            interval_s=settings.state_backup_interval_s,
        )


def save_state(given: Given) -> None:
    """Save the state of every region, or of those named, and print the names of what was saved."""
    from snaphold.cli.control import opened_deployment  # noqa: PLC0415

    set_up_logs(given.settings, "state")
    state = given.state
    state.require()
    for region in _regions(given, state):
        with (
            opened_deployment(given.settings, state, region) as deployment,
            opened_saver(given.settings, state, deployment) as saver,
        ):
            sys.stdout.write(json.dumps({"region": region, "saved": saver.save()}) + "\n")


def restore_state(given: Given, wanted: str, deployment_id: str | None) -> bool:
    """Bring the state of every region back, or of those named, and the records of their backups.

    False when a backup of ours is not whole.
    """
    from snaphold.cli.stores import stores_of  # noqa: PLC0415
    from snaphold.worker.state_backup import stored_state  # noqa: PLC0415

    set_up_logs(given.settings, "state")
    state = given.state
    regions = _regions(given, state)
    for region in regions:  # before anything is made: the directory may be a mistyped one
        if not state.store(region).is_dir():
            raise SetupError(f"{state.store(region)}, the store of {region}, is no directory (--store-dir)")
    saved = [(stored_state(stores_of(state, region), wanted, deployment_id), region) for region in regions]
    for one, region in saved:
        if one.region != region:
            raise SetupError(f"the saved state is of region {one.region}, not of {region}")
    state.make(regions)
    with state.lock("serve"):
        # The newest first: of a user that two of them know, the first one stays.
        ordered = sorted(saved, key=lambda pair: pair[0].written, reverse=True)
        whole = [_restore(state, region, one) for one, region in ordered]
    return all(whole)


def _restore(state: StateDirectory, region: str, saved: "State") -> bool:
    from snaphold.catalog.database import open_catalog  # noqa: PLC0415
    from snaphold.catalog.identity_db import open_identity_database  # noqa: PLC0415
    from snaphold.cli.stores import stores_of  # noqa: PLC0415
    from snaphold.worker.rebuild import rebuild  # noqa: PLC0415
    from snaphold.worker.state_backup import restore_state as restore  # noqa: PLC0415

    with (
        state.without_service(region),
        contextlib.closing(open_catalog(state.catalog(region))) as catalog,
        contextlib.closing(open_identity_database(state.identity)) as identity,
    ):
        restore(catalog, identity, saved)
        rebuilt = rebuild(catalog, stores_of(state, region), saved.deployment)
    told = {"state_of": saved.written, **rebuilt.to_json(region, saved.deployment)}
    sys.stdout.write(json.dumps(told, indent=1) + "\n")
    return rebuilt.whole


def _regions(given: Given, state: StateDirectory) -> list[str]:
    """Those named, with or without their address; else all there are."""
    regions = [text.partition("=")[0] for text in given.settings.region] or state.region_names()
    if not regions:
        raise SetupError("no region was given (--region NAME)")
    return regions
