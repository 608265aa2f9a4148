"""``snaphold account``: accounts, users, passwords, API keys and tokens of the embedded identity.

The commands open the identity database themselves. They also work while the service runs, and it sees each change at
once. A command imports what it needs when it runs, so that ``snaphold --help`` is quick.
"""

import getpass
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snaphold.cli.options import Given, command, with_state
from snaphold.cli.output import AsJSON, print_json, print_outcome, print_rows
from snaphold.errors import SetupError

if TYPE_CHECKING:
    from snaphold.identity.embedded import EmbeddedIdentity

account_app = typer.Typer(help="Accounts of the embedded identity and their users.", no_args_is_help=True)
key_app = typer.Typer(help="API keys of a user.", no_args_is_help=True)
account_app.add_typer(key_app, name="key")

_Account = Annotated[str, typer.Argument(help="the account's id")]
_User = Annotated[str, typer.Option("--user", help="the user's name")]
_UserOrAll = Annotated[str | None, typer.Option("--user", help="only this user; default: the whole account")]
_Password = Annotated[
    str | None,
    typer.Option(
        "--password",
        help="for tests, because others on this machine can read it; default: asked for at a terminal, else the first "
        "line of standard input",
    ),
]
_COLUMNS = {
    "account": "ACCOUNT",
    "user": "USER",
    "state": "STATE",
    "roles": "ROLES",
    "password": "PASSWORD",
    "api_keys": "API KEYS",
    "tokens": "TOKENS",
    "created": "CREATED",
}


@command(account_app, "add", with_state)
def add(
    given: Given,
    account: _Account,
    *,
    user: _User,
    password: _Password = None,
    role: Annotated[
        list[str] | None,
        typer.Option("--role", help="dbaas:admin, dbaas:creator or dbaas:observer; default: all rights"),
    ] = None,
    create: Annotated[bool, typer.Option("--create", help="set up the state directory, if it is not one yet")] = False,
) -> None:
    """Add a user, and its account if that is new. Prints JSON with the API key, which is shown only once."""
    state = given.state
    if not create and not state.is_set_up:
        raise SetupError(f"{state.not_set_up}; --create sets it up")
    if password is None:
        password = _ask_password(user)
    is_new = not state.is_set_up
    state.make()
    with _identity(given) as identity:
        print_json(identity.add_account(account, user, password, role or []))
    if is_new:
        sys.stderr.write(f"snaphold: the state directory {state.path} was set up\n")


@command(account_app, "list", with_state)
def list_(
    given: Given,
    account: Annotated[str | None, typer.Argument(help="only this account; default: all")] = None,
    *,
    as_json: AsJSON = False,
) -> None:
    """List accounts with their users."""
    from snaphold.model import rfc3339  # noqa: PLC0415

    with _identity(given) as identity:
        found = [one for one in identity.users() if account in {None, one.account}]
    rows: list[dict[str, Any]] = [
        {
            "account": one.account,
            "user": one.name,
            "state": "account disabled" if not one.account_enabled else "enabled" if one.enabled else "disabled",
            "account_enabled": one.account_enabled,
            "user_enabled": one.enabled,
            "roles": list(one.roles),
            "password": one.has_password,
            "api_keys": one.api_keys,
            "tokens": one.tokens,
            "created": rfc3339(one.created_us),
        }
        for one in found
    ]
    if account is not None and not rows:
        raise SetupError(f"there is no account {account}")
    print_rows(rows, _COLUMNS, as_json=as_json)


@command(account_app, "disable", with_state)
def disable(given: Given, account: _Account, *, user: _UserOrAll = None, as_json: AsJSON = False) -> None:
    """Shut out an account, or one of its users. Nobody can log in, and existing tokens end at once.

    Backups, instances and schedules continue.
    """
    with _identity(given) as identity:
        ended = identity.disable(account, user)
    facts = {"account": account, "user": user, "enabled": False, "tokens_ended": ended}
    print_outcome(f"{_named(account, user)} is disabled; tokens ended: {ended}", facts, as_json=as_json)


@command(account_app, "enable", with_state)
def enable(given: Given, account: _Account, *, user: _UserOrAll = None, as_json: AsJSON = False) -> None:
    """Let a disabled account, or user, log in again.

    A user who was disabled separately stays disabled when the account is enabled.
    """
    with _identity(given) as identity:
        identity.enable(account, user)
    facts = {"account": account, "user": user, "enabled": True}
    print_outcome(f"{_named(account, user)} is enabled", facts, as_json=as_json)


@command(account_app, "remove", with_state)
def remove(given: Given, account: _Account, *, user: _UserOrAll = None, as_json: AsJSON = False) -> None:
    """Remove an account with all its users, or one user, with their API keys and tokens.

    The account's instances, backups and schedules stay. A user who is added to the account later can use and delete
    them.
    """
    with _identity(given) as identity:
        names = identity.remove(account, user)
    facts = {"account": account, "users_removed": names}
    stays = "" if user is not None else "; its instances and backups stay"
    print_outcome(f"{_named(account, user)} is removed{stays}", facts, as_json=as_json)


@command(account_app, "password", with_state)
def password_(
    given: Given, account: _Account, *, user: _User, password: _Password = None, as_json: AsJSON = False
) -> None:
    """Change a user's password. The user's tokens end; its API keys stay."""
    given.state.require()
    if password is None:
        password = _ask_password(user)
    with _identity(given) as identity:
        ended = identity.change_password(account, user, password)
    facts = {"account": account, "user": user, "tokens_ended": ended}
    sentence = f"{_named(account, user)} has a new password; tokens ended: {ended}"
    print_outcome(sentence, facts, as_json=as_json)


@command(account_app, "end-tokens", with_state)
def end_tokens(given: Given, account: _Account, *, user: _UserOrAll = None, as_json: AsJSON = False) -> None:
    """End the tokens of an account, or of one user. The users can log in again with a password or an API key."""
    with _identity(given) as identity:
        ended = identity.end_tokens(account, user)
    facts = {"account": account, "user": user, "tokens_ended": ended}
    print_outcome(f"{_named(account, user)}: tokens ended: {ended}", facts, as_json=as_json)


@command(key_app, "add", with_state)
def add_key(given: Given, account: _Account, *, user: _User) -> None:
    """Give a user one more API key. Prints JSON with the key, which is shown only once."""
    with _identity(given) as identity:
        print_json(identity.add_api_key(account, user))


@command(key_app, "list", with_state)
def list_keys(given: Given, account: _Account, *, user: _User, as_json: AsJSON = False) -> None:
    """List the ids of a user's API keys. The keys themselves are stored only as hashes."""
    from snaphold.model import rfc3339  # noqa: PLC0415

    with _identity(given) as identity:
        keys = identity.api_keys(account, user)
    rows = [{"id": key.id, "created": rfc3339(key.created_us)} for key in keys]
    print_rows(rows, {"id": "ID", "created": "CREATED"}, as_json=as_json)


@command(key_app, "remove", with_state)
def remove_key(
    given: Given,
    account: _Account,
    key: Annotated[str, typer.Argument(help="the API key's id (snaphold account key list)")],
    *,
    user: _User,
    as_json: AsJSON = False,
) -> None:
    """Remove an API key of a user. The tokens that were issued for it end."""
    with _identity(given) as identity:
        ended = identity.remove_api_key(account, user, key)
    facts = {"account": account, "user": user, "id": key, "tokens_ended": ended}
    print_outcome(f"API key {key} of user {user} is removed; tokens ended: {ended}", facts, as_json=as_json)


@contextmanager
def _identity(given: Given) -> Iterator["EmbeddedIdentity"]:
    from snaphold.wiring.deployment import opened_identity  # noqa: PLC0415

    given.state.require()
    with opened_identity(given.settings, given.state) as identity:
        yield identity


def _named(account: str, user: str | None) -> str:
    return f"account {account}" if user is None else f"user {user} of account {account}"


def _ask_password(user: str) -> str:
    """Ask for a password twice at a terminal; else read the first line of standard input."""
    if not sys.stdin.isatty():
        password = sys.stdin.readline().rstrip("\r\n")
    else:
        password = getpass.getpass(f"Password of {user}: ")
        if getpass.getpass("Once more: ") != password:
            raise SetupError("the two passwords differ")
    if not password:
        raise SetupError("no password was given (--password, or a line on standard input)")
    return password
