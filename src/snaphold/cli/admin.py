"""Administrative commands: they open the state directory's databases themselves, so they work while it is served."""

import getpass
import json
import sys
from collections.abc import Sequence

from snaphold.cli.options import Given
from snaphold.cli.state import StateDirectory
from snaphold.errors import SetupError


def add_account(
    given: Given, account: str, user: str, password: str | None, roles: Sequence[str], *, create: bool
) -> None:
    """Add a user to the embedded identity and print what there is to know.

    ``create``: the state directory may be a new one; otherwise a mistyped one is refused.
    """
    from snaphold.identity.embedded import open_embedded  # noqa: PLC0415

    state = given.state
    if not create and not state.is_set_up:
        raise SetupError(f"{state.not_set_up}; --create makes it one")
    if password is None:
        password = _ask_password(user)
    state.make()
    identity = open_embedded(state.path, given.settings.token_lifetime_s)
    try:
        added = identity.add_account(account, user, password, roles)
    finally:
        identity.close()
    sys.stdout.write(json.dumps(added, indent=1) + "\n")


def add_host(given: Given, name: str) -> None:
    """Make a host's token in one region's record and print it."""
    from snaphold.cli.control import opened_deployment  # noqa: PLC0415
    from snaphold.service import hosts  # noqa: PLC0415

    state = given.state
    state.require()
    region = one_region(given, state)
    with opened_deployment(given.settings, state, region) as deployment:
        token = hosts.add_host(deployment, name)
    sys.stdout.write(json.dumps({"host": name, "region": region, "token": token}, indent=1) + "\n")


def one_region(given: Given, state: StateDirectory) -> str:
    """The region that is meant: named (with or without its address), or the only one there is."""
    there = state.region_names()
    named = [text.partition("=")[0] for text in given.settings.region] or there
    if len(named) != 1:
        raise SetupError(f"which region is meant? (--region, one of {', '.join(there) or 'none'})")
    if named[0] not in there:
        raise SetupError(f"{state.path} has no region {named[0]}, only {', '.join(there) or 'none'}")
    return named[0]


def _ask_password(user: str) -> str:
    """From the person at the terminal, twice; else the first line of standard input."""
    if not sys.stdin.isatty():
        password = sys.stdin.readline().rstrip("\r\n")
    else:
        password = getpass.getpass(f"Password of {user}: ")
        if getpass.getpass("Once more: ") != password:
            raise SetupError("the two passwords differ")
    if not password:
        raise SetupError("no password was given (--password, or a line on standard input)")
    return password
