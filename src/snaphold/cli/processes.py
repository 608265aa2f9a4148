"""``snaphold api``, ``worker`` and ``agent``: one process of the service each, until SIGTERM or SIGINT."""

from snaphold.cli.options import Given
from snaphold.errors import SetupError
from snaphold.wiring.privacy import keep_paths_private
from snaphold.wiring.state_directory import Endpoint, parse_regions


def run_api(given: Given, name: str | None, *, with_worker: bool, with_local_agent: bool) -> None:
    """Run the API of one region."""
    from snaphold.wiring.api import run_api as run  # noqa: PLC0415

    region = _prepared_region(given, name)
    run(given.settings, given.state, region, with_worker=with_worker, with_local_agent=with_local_agent)


def run_worker(given: Given, name: str | None) -> None:
    """Run the worker of one region."""
    from snaphold.wiring.worker import run_worker as run  # noqa: PLC0415

    given.state.require()
    run(given.settings, given.state, _prepared_region(given, name))


def run_agent(given: Given) -> None:
    """Run the agent of this machine."""
    from snaphold.wiring.agent import run_agent as run  # noqa: PLC0415

    state = given.state
    state.require()
    regions = parse_regions(given.settings.region)
    state.make([region.name for region in regions])
    keep_paths_private(given.settings, state)
    run(given.settings, state, regions)


def _prepared_region(given: Given, name: str | None) -> Endpoint:
    """The region of this process, the one named or the only one, with its directories made."""
    regions = parse_regions(given.settings.region)
    mine = [region for region in regions if name in {None, region.name}]
    if len(mine) != 1:
        raise SetupError(f"which region is this process's? (--name, one of {', '.join(map(str, regions))})")
    state = given.state
    state.make([mine[0].name])
    keep_paths_private(given.settings, state)
    state.make_store(mine[0].name)
    return mine[0]
