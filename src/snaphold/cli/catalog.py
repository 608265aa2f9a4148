"""``snaphold catalog``: the catalog of a region, made anew from what lies in its store."""

import contextlib
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from snaphold.cli.admin import one_region
from snaphold.cli.logs import set_up_logs
from snaphold.cli.options import Given
from snaphold.cli.state import StateDirectory

if TYPE_CHECKING:
    from snaphold.worker.rebuild import Rebuilt


def rebuild_catalog(given: Given, accounts: Sequence[str], adopted: str | None) -> bool:
    """Rebuild one region's record and print what came of it.

    False when a backup of ours is not whole, or when nothing was made of what is there: then it says what would help.

    ``adopted``: the id of the deployment that wrote the backups, which this one goes on as.
    """
    from snaphold.cli.control import opened_deployment  # noqa: PLC0415
    from snaphold.cli.stores import stores_of  # noqa: PLC0415
    from snaphold.worker.rebuild import rebuild  # noqa: PLC0415

    set_up_logs(given.settings, "catalog")
    state = given.state
    state.require()
    region = one_region(given, state)
    if adopted is not None:
        _adopt(state, region, adopted)
    with opened_deployment(given.settings, state, region) as deployment:
        rebuilt = rebuild(deployment.catalog, stores_of(state, region), deployment.deployment_id, accounts or None)
    sys.stdout.write(json.dumps(rebuilt.to_json(region, deployment.deployment_id), indent=1) + "\n")
    if rebuilt.fruitless:
        sys.stderr.write(f"snaphold: {_what_helps(rebuilt, region, deployment.deployment_id)}\n")
    return rebuilt.whole and not rebuilt.fruitless


def _what_helps(rebuilt: "Rebuilt", region: str, deployment_id: str) -> str:
    """For an operator whose store holds backups, none of which is in the catalog."""
    if not rebuilt.others:
        return f"the store of {region} holds manifests, and none of them could be taken: see not_made"
    written = ", ".join(f"{count} by deployment {other}" for other, count in rebuilt.others.items())
    most = next(iter(rebuilt.others))
    return (
        f"nothing was taken: this is deployment {deployment_id}, and the backups in the store of {region} were written "
        f"by another one ({written}). If it is this service whose catalog was lost, stop the service and say "
        f"`snaphold catalog rebuild --region {region} --deployment {most}`; `snaphold state restore --region {region}` "
        "brings hosts and instances back too, where a state was saved"
    )


def end_rebuild(given: Given) -> None:
    """Let the sweep of one region go on."""
    from snaphold.cli.control import opened_deployment  # noqa: PLC0415
    from snaphold.worker.rebuild import end_rebuild as end  # noqa: PLC0415

    set_up_logs(given.settings, "catalog")
    state = given.state
    state.require()
    region = one_region(given, state)
    with opened_deployment(given.settings, state, region) as deployment:
        was_held = end(deployment.catalog, deployment.queue)
    sys.stdout.write(json.dumps({"region": region, "sweep": "goes on" if was_held else "was not held"}) + "\n")


def _adopt(state: StateDirectory, region: str, deployment_id: str) -> None:
    """Not while the service runs: its processes would go on under the id that they have read."""
    from snaphold.catalog.database import open_catalog  # noqa: PLC0415
    from snaphold.catalog.saved import adopt_deployment  # noqa: PLC0415

    with (
        state.lock("serve"),
        state.without_service(region),
        contextlib.closing(open_catalog(state.catalog(region))) as catalog,
        catalog.writing() as tx,
    ):
        adopt_deployment(tx, deployment_id, region)
