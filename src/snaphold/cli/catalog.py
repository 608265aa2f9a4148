"""``snaphold catalog``: makes the catalog of a region again from the manifests in its store."""

import json
import sys
from collections.abc import Sequence

from snaphold.cli.admin import one_region
from snaphold.cli.options import Given
from snaphold.wiring.logs import set_up_logs
from snaphold.wiring.recovery import RebuiltRegion
from snaphold.wiring.recovery import end_rebuild as end
from snaphold.wiring.recovery import rebuild_region as rebuild


def rebuild_catalog(given: Given, accounts: Sequence[str], adopted: str | None) -> bool:
    """Rebuild one region's catalog and print the result.

    ``accounts``: only of these; empty: of all. ``adopted``: the id of the deployment that wrote the backups, which the
    region takes over. False when one of our backups is incomplete, or when no backup was taken although the store holds
    some: standard error then says what would help.
    """
    set_up_logs(given.settings, "catalog")
    given.state.require()
    found = rebuild(given.settings, given.state, one_region(given), accounts, adopted)
    print_rebuilt(found)
    if found.rebuilt.fruitless:
        sys.stderr.write(f"snaphold: {_what_helps(found)}\n")
    return found.rebuilt.whole and not found.rebuilt.fruitless


def print_rebuilt(found: RebuiltRegion) -> None:
    """Print as JSON which backups were taken from the store of a region, and which state was restored before."""
    of_state = {} if found.state_written is None else {"state_of": found.state_written}
    sys.stdout.write(json.dumps(of_state | found.rebuilt.to_json(found.region, found.deployment_id), indent=1) + "\n")


def end_rebuild(given: Given) -> None:
    """Let the sweep of one region go on."""
    set_up_logs(given.settings, "catalog")
    given.state.require()
    region = one_region(given)
    was_held = end(given.settings, given.state, region)
    sys.stdout.write(json.dumps({"region": region, "sweep": "goes on" if was_held else "was not held"}) + "\n")


def _what_helps(found: RebuiltRegion) -> str:
    """Tells an operator why no backup in the store was taken into the catalog, and what to do."""
    region, rebuilt = found.region, found.rebuilt
    if not rebuilt.told:
        return (
            f"the store of {region} holds no manifest, and the catalog has {rebuilt.recorded} backup(s): check that "
            "the store is mounted, and is the right one"
        )
    if not rebuilt.others:
        return f"the store of {region} holds manifests, and none of them could be taken: see not_made"
    written = ", ".join(f"{count} by deployment {other}" for other, count in rebuilt.others.items())
    most = next(iter(rebuilt.others))
    return (
        f"nothing was taken: this is deployment {found.deployment_id}, and the backups in the store of {region} were "
        f"written by another one ({written}). If it is this service whose catalog was lost, stop the service and run "
        f"`snaphold catalog rebuild --region {region} --deployment {most}`; `snaphold state restore --region {region}` "
        "brings hosts and instances back too, where a state was saved"
    )
