"""What the administrative commands share. They open the state directory's databases themselves."""

from snaphold.cli.options import Given
from snaphold.errors import SetupError


def one_region(given: Given) -> str:
    """The region that a command works on: the one named, with or without its address, or the only one that exists."""
    existing = given.state.region_names()
    named = [text.partition("=")[0] for text in given.settings.region] or existing
    if len(named) != 1:
        raise SetupError(f"which region is meant? (--region, one of {', '.join(existing) or 'none'})")
    if named[0] not in existing:
        raise SetupError(f"{given.state.path} has no region {named[0]}, only {', '.join(existing) or 'none'}")
    return named[0]
