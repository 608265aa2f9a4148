"""``snaphold catalog``: the record of a region, made anew from what lies in its store."""

import json
import sys
from collections.abc import Sequence

from snaphold.cli.admin import one_region
from snaphold.cli.options import Given
from snaphold.cli.state import StateDirectory


def rebuild_catalog(given: Given, accounts: Sequence[str]) -> bool:
    """Rebuild one region's record and print what came of it; False when a backup of ours is not whole."""
    from snaphold.cli.control import opened_deployment  # noqa: PLC0415
    from snaphold.cli.stores import stores_of  # noqa: PLC0415
    from snaphold.worker.rebuild import rebuild  # noqa: PLC0415

    state = StateDirectory(given.state_dir)
    state.require()
    region = one_region(given, state)
    with opened_deployment(given.settings, state, region) as deployment:
        rebuilt = rebuild(deployment.catalog, stores_of(state, region), deployment.deployment_id, accounts or None)
    made = [{"account": one.account, "id": one.id, "name": one.name} for one in rebuilt.made]
    told = [
        {"account": one.account, "object": one.name, "reason": one.reason, "damaged": one.damaged}
        for one in rebuilt.told
    ]
    answer = {
        "region": region,
        "deployment": deployment.deployment_id,
        "recorded_already": rebuilt.kept,
        "made": made,
        "not_made": told,
        "sweep": "held until `snaphold catalog rebuild --done`",
    }
    sys.stdout.write(json.dumps(answer, indent=1) + "\n")
    return not any(one.damaged for one in rebuilt.told)


def end_rebuild(given: Given) -> None:
    """Let the sweep of one region go on."""
    from snaphold.cli.control import opened_deployment  # noqa: PLC0415
    from snaphold.worker.rebuild import end_rebuild as end  # noqa: PLC0415

    state = StateDirectory(given.state_dir)
    state.require()
    region = one_region(given, state)
    with opened_deployment(given.settings, state, region) as deployment:
        was_held = end(deployment.catalog, deployment.queue)
    sys.stdout.write(json.dumps({"region": region, "sweep": "goes on" if was_held else "was not held"}) + "\n")
