"""``snaphold state``: saves the service's own state, and restores it after the loss of the state directory."""

import json
import sys

from snaphold.cli.catalog import print_rebuilt
from snaphold.cli.options import Given
from snaphold.errors import SetupError
from snaphold.wiring.deployment import opened_deployment, opened_saver
from snaphold.wiring.logs import set_up_logs
from snaphold.wiring.recovery import restore_regions


def save_state(given: Given) -> None:
    """Save the state of every region, or of those named, and print the name of each saved state."""
    set_up_logs(given.settings, "state")
    state = given.state
    state.require()
    for region in _regions(given):
        with (
            opened_deployment(given.settings, state, region) as deployment,
            opened_saver(deployment, state) as saver,
        ):
            sys.stdout.write(json.dumps({"region": region, "saved": saver.save()}) + "\n")


def restore_state(given: Given, wanted: str, deployment_id: str | None) -> bool:
    """Restore the state of every region, or of those named, and the records of their backups.

    False when one of our backups is incomplete.
    """
    set_up_logs(given.settings, "state")
    whole = True
    for found in restore_regions(given.state, _regions(given), wanted, deployment_id):
        print_rebuilt(found)
        whole &= found.rebuilt.whole
    return whole


def _regions(given: Given) -> list[str]:
    """The regions named, with or without their address; else all regions of the state directory."""
    regions = [text.partition("=")[0] for text in given.settings.region] or given.state.region_names()
    if not regions:
        raise SetupError("no region was given (--region NAME)")
    return regions
