"""What administrative commands share: they open the state directory's databases themselves."""

from snaphold.cli.options import Given
from snaphold.cli.state import StateDirectory
from snaphold.errors import SetupError


def one_region(given: Given, state: StateDirectory) -> str:
    """The region that is meant: named (with or without its address), or the only one there is."""
    there = state.region_names()
    named = [text.partition("=")[0] for text in given.settings.region] or there
    if len(named) != 1:
        raise SetupError(f"which region is meant? (--region, one of {', '.join(there) or 'none'})")
    if named[0] not in there:
        raise SetupError(f"{state.path} has no region {named[0]}, only {', '.join(there) or 'none'}")
    return named[0]
