"""``snaphold store``: checks what the object store of a region holds."""

import json
import sys
from collections.abc import Sequence

from snaphold.cli.admin import one_region
from snaphold.cli.options import Given
from snaphold.wiring.deployment import opened_deployment, orphan_scanner_of
from snaphold.wiring.logs import set_up_logs


def check_store(given: Given, accounts: Sequence[str]) -> None:
    """Print the objects that belong to no backup in the catalog. ``accounts`` empty: of all that have a container."""
    set_up_logs(given.settings, "store")
    state = given.state
    state.require()
    region = one_region(given)
    with opened_deployment(given.settings, state, region) as deployment:
        found = [one.to_json() for one in orphan_scanner_of(deployment, state).look(accounts or None)]
        result = {"region": region, "deployment": deployment.deployment_id, "accounts": found}
    sys.stdout.write(json.dumps(result, indent=1) + "\n")
