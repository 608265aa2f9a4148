"""Callers, their rights, and what any backend of identity can do."""

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


def roles_give(roles: Iterable[str], right: Right) -> bool:
    """Whether roles give this right within the account of whoever has them (contract, section 9).

    1. No role of the service's: every right.
    2. Else what the roles give together.
    """
    own = [_RIGHTS[role] for role in roles if role in _RIGHTS]
    return not own or any(right in rights for rights in own)


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who a valid token speaks for. Times are microseconds since the epoch."""

    account: str
    user: str
    roles: frozenset[str]
    issued_us: int
    expires_us: int

    def may(self, right: Right) -> bool:
        """Whether the roles give this right within the caller's own account."""
        return roles_give(self.roles, right)


@dataclass(frozen=True, kw_only=True)
class Login:
    """A fresh token and who it speaks for. The token is shown once and kept nowhere in clear."""

    token: str = field(repr=False)
    caller: Caller


class Identity(Protocol):
    """A backend of identity. Every method may raise ``Unavailable`` when the backend is silent."""

    def authenticate_password(self, user: str, password: str, account: str | None) -> Login:
        """Log in by password. ``account`` None: the user's own.

        Raises ``Unauthorized``, the same way whatever of the three was wrong; ``OverLimit`` after too many attempts.
        """

    def authenticate_api_key(self, user: str, api_key: str, account: str | None) -> Login:
        """Log in by API key; otherwise as by password."""

    def validate(self, token: str) -> Caller:
        """Who this token speaks for. Raises ``Unauthorized`` when it is unknown or expired."""

    def roles_of(self, user: str, account: str) -> frozenset[str] | None:
        """The roles of a user in an account, who need not have logged in; None: it is no user of this account."""

    def version(self) -> object:
        """Another value whenever a token may speak for somebody else than before, or for nobody. It never waits.

        A backend that cannot tell always returns the same.
        """

    def end(self, token: str) -> None:
        """End a token, which is not good from now on, in every region. One that is unknown is ended already."""
