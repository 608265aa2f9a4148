"""The embedded identity: accounts, users and tokens in one database of the state directory.

The database holds a salted scrypt hash of each password, and the SHA-256 of API keys and tokens, which are long and
random.
"""

import hashlib
import hmac
import re
import secrets
import threading
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Final

from snaphold.catalog.identity_db import (
    ApiKeyListing,
    IdentityDatabase,
    UserListing,
    UserRow,
    new_key_id,
    open_identity_database,
)
from snaphold.errors import OverLimit, SetupError, Unauthorized, Unavailable
from snaphold.identity.base import ROLES, Caller, Login, Right, rights_given
from snaphold.model import SERVICE_ACCOUNT

DATABASE: Final = "identity.db"
_ACCOUNT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # becomes a directory's name and part of URLs
_USER: Final = re.compile(r"[^\s\x00-\x1f\x7f]{1,128}")
_SCRYPT: Final = (1 << 14, 8, 1)  # n, r, p: 16 MiB and some 40 ms (RFC 7914, section 2)
_SCRYPT_PLACES: Final = threading.BoundedSemaphore(4)  # passwords checked at the same time: 64 MiB
_SCRYPT_WAIT_S: Final = 2.0
_WRONG: Final = "Unable to authenticate user with credentials provided."
_NOT_VALID: Final = "The token is unknown or has expired."


class EmbeddedIdentity:
    """An ``Identity`` on a database of ours. Several processes may have the same one open: regions, commands.

    ``logins_per_minute``: how often anyone may try to log in as one user, successfully or not, in all regions together;
    0: no limit.
    """

    def __init__(self, database: IdentityDatabase, token_lifetime_s: int, logins_per_minute: int = 0) -> None:
        self._database = database
        self._logins_per_minute = logins_per_minute
        self._lifetime_us = token_lifetime_s * 1_000_000
        # A hash that no password has. Checking an unknown user's password against it takes as long as a known user's.
        self._nobody = _kept(secrets.token_bytes(16), secrets.token_bytes(32))

    def add_account(self, account: str, user: str, password: str | None, roles: Collection[str]) -> dict[str, str]:
        """Add a user, and its account if that is new. Returns the API key, which is shown only once.

        ``password`` None: the user can log in by API key only.

        Raises:
            SetupError: a name or a role is not allowed, or the user exists already, in whatever account.
        """
        if not _ACCOUNT.fullmatch(account):
            raise SetupError(f"{account!r} is no account: 1 to 64 of A-Z a-z 0-9 . _ - and a letter or digit first")
        if account == SERVICE_ACCOUNT:
            raise SetupError(f"the account {SERVICE_ACCOUNT} is the service's own")
        if not _USER.fullmatch(user):
            raise SetupError(f"{user!r} is no user name: 1 to 128 characters without white space")
        if unknown := sorted(set(roles) - set(ROLES)):
            raise SetupError(f"there is no role {unknown[0]}, only {', '.join(ROLES)}")
        api_key = secrets.token_hex(16)
        row = UserRow(
            name=user,
            account=account,
            password_hash=None if password is None else _new_hash(password),
            api_keys={new_key_id(): _sha256(api_key)},
            roles=sorted(set(roles)),
        )
        self._database.add_user(row)
        return {"account": account, "user": user, "api_key": api_key}

    def users(self) -> list[UserListing]:
        """Every account with its users."""
        return self._database.users()

    def disable(self, account: str, user: str | None) -> int:
        """Shut out a user, or a whole account (``user`` None), in every region at once. Returns how many tokens ended.

        Raises:
            SetupError: there is no such account, or no such user in it. The following methods raise it too.
        """
        return self._database.disable(account, user)

    def enable(self, account: str, user: str | None) -> None:
        """Let a user, or an account, log in again. A user who was disabled separately stays disabled."""
        self._database.enable(account, user)

    def remove(self, account: str, user: str | None) -> list[str]:
        """Remove a user, or an account with all its users, with their keys and tokens. Returns the users' names."""
        return self._database.remove(account, user)

    def change_password(self, account: str, user: str, password: str) -> int:
        """Change a user's password. Returns how many tokens ended. An empty password raises ``SetupError``."""
        return self._database.change_password(account, user, _new_hash(password))

    def add_api_key(self, account: str, user: str) -> dict[str, str]:
        """Give a user one more API key. Returns it; it is shown only once."""
        key_id, api_key = new_key_id(), secrets.token_hex(16)
        self._database.add_api_key(account, user, key_id, _sha256(api_key))
        return {"account": account, "user": user, "id": key_id, "api_key": api_key}

    def api_keys(self, account: str, user: str) -> list[ApiKeyListing]:
        """A user's API keys, oldest first."""
        return self._database.api_keys(account, user)

    def remove_api_key(self, account: str, user: str, key_id: str) -> int:
        """Remove an API key and the tokens that were issued for it. Returns how many tokens ended."""
        return self._database.remove_api_key(account, user, key_id)

    def end_tokens(self, account: str, user: str | None) -> int:
        """Revoke the tokens of a user, or of all users of an account. Returns how many ended."""
        return self._database.end_tokens(account, user)

    def authenticate_password(self, user: str, password: str, account: str | None) -> Login:
        """Log in by password. Raises ``Unauthorized``, ``OverLimit``."""
        self._count_login(user)
        known = self._database.find_user(user)
        kept = None if known is None else known.password_hash
        fits = password_fits(password, kept or self._nobody)
        return self._login(known if fits and kept is not None else None, account, api_key=None)

    def authenticate_api_key(self, user: str, api_key: str, account: str | None) -> Login:
        """Log in by API key. Raises ``Unauthorized``, ``OverLimit``."""
        self._count_login(user)
        known = self._database.find_user(user)
        given = _sha256(api_key)
        keys = {} if known is None else known.api_keys
        fitting = next((key_id for key_id, kept in keys.items() if hmac.compare_digest(given, kept)), None)
        return self._login(known if fitting is not None else None, account, api_key=fitting)

    def validate(self, token: str) -> Caller:
        """The caller that a token belongs to. Raises ``Unauthorized``."""
        row = self._database.find_token(_sha256(token))
        if row is None:
            raise Unauthorized(_NOT_VALID)
        return Caller(
            account=row.account,
            user=row.user,
            roles=frozenset(row.roles),
            rights=rights_of_user(row.roles),
            issued_us=row.issued_us,
            expires_us=row.expires_us,
        )

    def rights_of(self, user: str, account: str) -> frozenset[Right]:
        """The rights of a user in an account; none for a disabled or unknown user, and in another account."""
        known = self._database.find_user(user)
        return frozenset() if known is None or known.account != account else rights_of_user(known.roles)

    def version(self) -> object:
        """A value that changes after each revocation, by any process."""
        return self._database.version()

    def end(self, token: str) -> None:
        """Revoke a token in every region."""
        self._database.end_token(_sha256(token))

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _count_login(self, user: str) -> None:
        if self._logins_per_minute:
            wait_us = self._database.count_login(_sha256(user), self._logins_per_minute)
            if wait_us:
                raise OverLimit.within_a_minute(self._logins_per_minute, wait_us)

    def _login(self, user: UserRow | None, account: str | None, *, api_key: str | None) -> Login:
        """Issue a token. ``user`` None: the secret was wrong. ``api_key``: the id of the key used; None: a password."""
        if user is None or (account is not None and account != user.account):
            raise Unauthorized(_WRONG)
        token = secrets.token_urlsafe(32)
        lifetime = self._database.add_token(_sha256(token), user, api_key, self._lifetime_us)
        if lifetime is None:
            raise Unauthorized(_WRONG)
        issued_us, expires_us = lifetime
        caller = Caller(
            account=user.account,
            user=user.name,
            roles=frozenset(user.roles),
            rights=rights_of_user(user.roles),
            issued_us=issued_us,
            expires_us=expires_us,
        )
        return Login(token=token, caller=caller)


def rights_of_user(roles: Iterable[str]) -> frozenset[Right]:
    """The rights of a user of the embedded identity: what the roles give, everything without one of ours.

    Accounts here are made by the operator for users of this service, so a user without a role is an owner. A user of
    another backend may have roles that mean nothing to us, and has no rights then.
    """
    own = set(roles) & set(ROLES)
    return rights_given(own) if own else frozenset(Right)


def open_embedded(
    state_dir: Path, token_lifetime_s: int, clock: Callable[[], int] | None = None, *, logins_per_minute: int = 0
) -> EmbeddedIdentity:
    """Open the identity of a state directory. Its database is made when it does not exist.

    ``clock``: replaces the database's clock (microseconds since the epoch) in tests.

    Raises:
        SetupError: the database cannot be opened, or was written by a newer release.
    """
    return EmbeddedIdentity(open_identity_database(state_dir / DATABASE, clock), token_lifetime_s, logins_per_minute)


def hash_password(password: str) -> str:
    """``scrypt$n$r$p$salt$hash``, the last two in hexadecimal."""
    salt = secrets.token_bytes(16)
    return _kept(salt, _scrypt(password, salt, *_SCRYPT))


def password_fits(password: str, kept: str) -> bool:
    """Whether ``kept`` is the hash of this password. Compared in constant time."""
    _, n, r, p, salt, digest = kept.split("$")
    return hmac.compare_digest(_scrypt(password, bytes.fromhex(salt), int(n), int(r), int(p)), bytes.fromhex(digest))


def _new_hash(password: str) -> str:
    if not password:
        raise SetupError("the password is empty")
    return hash_password(password)


def _kept(salt: bytes, digest: bytes) -> str:
    return "$".join(["scrypt", *map(str, _SCRYPT), salt.hex(), digest.hex()])


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    if not _SCRYPT_PLACES.acquire(timeout=_SCRYPT_WAIT_S):
        raise Unavailable("Too many logins at once.")
    try:
        return hashlib.scrypt(password.encode(), salt=salt, n=n, r=r, p=p, maxmem=64 << 20, dklen=32)
    finally:
        _SCRYPT_PLACES.release()


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
