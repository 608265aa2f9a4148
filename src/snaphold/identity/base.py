"""Callers, their rights, and the methods that every identity backend has."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Protocol

ADMIN: Final = "dbaas:admin"
CREATOR: Final = "dbaas:creator"
OBSERVER: Final = "dbaas:observer"
ROLES: Final = (ADMIN, CREATOR, OBSERVER)


class Right(StrEnum):
    """What a request needs."""

    READ = "read"
    WRITE = "write"
    DELETE = "delete"


_RIGHTS: Final = {
    ADMIN: frozenset(Right),
    CREATOR: frozenset({Right.READ, Right.WRITE}),
    OBSERVER: frozenset({Right.READ}),
}


def rights_given(roles: Iterable[str]) -> frozenset[Right]:
    """The rights that roles give together (contract, section 9). A role that is not one of ``ROLES`` gives none."""
    return frozenset().union(*(_RIGHTS.get(role, frozenset()) for role in roles))


@dataclass(frozen=True, kw_only=True)
class Caller:
    """The user whom a valid token belongs to. Times are microseconds since the epoch.

    ``rights``: what the user may do within the account. The identity backend decides; the default is nothing.
    """

    account: str
    user: str
    roles: frozenset[str]
    rights: frozenset[Right] = frozenset()
    issued_us: int
    expires_us: int

    def may(self, right: Right) -> bool:
        """Whether the caller has this right within its own account."""
        return right in self.rights


@dataclass(frozen=True, kw_only=True)
class Login:
    """A new token and its caller. The token is shown once; only its hash is stored."""

    token: str = field(repr=False)
    caller: Caller


class Identity(Protocol):
    """An identity backend. Every method may raise ``Unavailable`` when the backend does not answer."""

    def authenticate_password(self, user: str, password: str, account: str | None) -> Login:
        """Log in by password. ``account`` None: the user's own account.

        Raises ``Unauthorized``, with the same message whichever of the three was wrong; ``OverLimit`` after too many
        attempts.
        """

    def authenticate_api_key(self, user: str, api_key: str, account: str | None) -> Login:
        """Log in by API key; otherwise as by password."""

    def validate(self, token: str) -> Caller:
        """The caller that a token belongs to. Raises ``Unauthorized`` when the token is unknown or has expired."""

    def rights_of(self, user: str, account: str) -> frozenset[Right]:
        """The rights of a user in an account, logged in or not; none for a user who does not belong to the account."""

    def version(self) -> object:
        """A value that changes whenever a token may have lost its caller or its rights. It never waits.

        A cache of callers is valid for one version. A backend that cannot know always returns the same value.
        """

    def end(self, token: str) -> None:
        """Revoke a token in every region, from now on. Revoking an unknown token does nothing."""
