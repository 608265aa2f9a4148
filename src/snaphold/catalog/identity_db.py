"""The identity database: accounts, users, tokens and recent logins, shared by every region of a state directory.

Secrets lie here as hashes only. Several processes use it at the same time.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import exc

from snaphold.catalog.database import Catalog, open_database
from snaphold.catalog.limits import count_in
from snaphold.catalog.saved import Rows, put_missing, rows_of
from snaphold.errors import SetupError

metadata = sa.MetaData()

accounts = sa.Table(
    "accounts",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("created_us", sa.BigInteger, nullable=False),
)

users = sa.Table(
    "users",
    metadata,
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("account", sa.String(64), sa.ForeignKey("accounts.id"), nullable=False),
    sa.Column("password_hash", sa.String(255)),
    sa.Column("api_key_sha256", sa.String(64), nullable=False),
    sa.Column("roles", sa.JSON, nullable=False),
    sa.Column("created_us", sa.BigInteger, nullable=False),
)

tokens = sa.Table(
    "tokens",
    metadata,
    sa.Column("sha256", sa.String(64), primary_key=True),
    sa.Column("user", sa.String(128), sa.ForeignKey("users.name"), nullable=False),
    sa.Column("issued_us", sa.BigInteger, nullable=False),
    sa.Column("expires_us", sa.BigInteger, nullable=False, index=True),
)

logins = sa.Table(
    "logins",
    metadata,
    sa.Column("user_sha256", sa.String(64), nullable=False),  # of the name that was given, whoever it is
    sa.Column("at_us", sa.BigInteger, nullable=False, index=True),
    sa.Index("ix_logins_user_sha256_at_us", "user_sha256", "at_us"),
)


@dataclass(frozen=True, kw_only=True)
class UserRow:
    """A user of an account. ``password_hash`` None: cannot log in by password."""

    name: str
    account: str
    password_hash: str | None = field(repr=False)
    api_key_sha256: str = field(repr=False)
    roles: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class TokenRow:
    """A token that is not expired, and whose it is."""

    user: str
    account: str
    roles: Sequence[str]
    issued_us: int
    expires_us: int


class IdentityDatabase:
    """Its statements, one transaction each. Every method may raise ``Unavailable``."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def add_user(self, user: UserRow) -> None:
        """Keep a new user, and its account if that is new.

        Raises:
            SetupError: there is a user of this name already, in whatever account.
        """
        with self._catalog.writing() as tx:
            if tx.connection.execute(sa.select(accounts.c.id).where(accounts.c.id == user.account)).first() is None:
                tx.connection.execute(accounts.insert().values(id=user.account, created_us=tx.now_us))
            row = users.insert().values(
                name=user.name,
                account=user.account,
                password_hash=user.password_hash,
                api_key_sha256=user.api_key_sha256,
                roles=list(user.roles),
                created_us=tx.now_us,
            )
            try:
                tx.connection.execute(row)
            except exc.IntegrityError as error:
                raise SetupError(f"there is a user {user.name} already; nothing was changed") from error

    def find_user(self, name: str) -> UserRow | None:
        """The user of this name, or None."""
        with self._catalog.reading() as tx:
            row = tx.connection.execute(users.select().where(users.c.name == name)).one_or_none()
        if row is None:
            return None
        return UserRow(
            name=row.name,
            account=row.account,
            password_hash=row.password_hash,
            api_key_sha256=row.api_key_sha256,
            roles=row.roles,
        )

    def count_login(self, user_sha256: str, limit: int) -> int:
        """Note an attempt to log in, if it is not above so many a minute: 0, else the microseconds to wait."""
        with self._catalog.writing() as tx:
            return count_in(logins, tx, {"user_sha256": user_sha256}, limit)

    def add_token(self, sha256: str, user: str, lifetime_us: int) -> tuple[int, int]:
        """Keep a token from now on, and forget the expired ones. Returns when it was issued and when it expires."""
        with self._catalog.writing() as tx:
            tx.connection.execute(tokens.delete().where(tokens.c.expires_us <= tx.now_us))
            issued_us, expires_us = tx.now_us, tx.now_us + lifetime_us
            values = {"sha256": sha256, "user": user, "issued_us": issued_us, "expires_us": expires_us}
            tx.connection.execute(tokens.insert().values(**values))
        return issued_us, expires_us

    def find_token(self, sha256: str) -> TokenRow | None:
        """The token of this hash, unless it is unknown or expired."""
        statement = (
            sa.select(tokens.c.user, users.c.account, users.c.roles, tokens.c.issued_us, tokens.c.expires_us)
            .join(users, users.c.name == tokens.c.user)
            .where(tokens.c.sha256 == sha256)
        )
        with self._catalog.reading() as tx:
            row = tx.connection.execute(statement).one_or_none()
            if row is None or row.expires_us <= tx.now_us:
                return None
        return TokenRow(
            user=row.user,
            account=row.account,
            roles=row.roles,
            issued_us=row.issued_us,
            expires_us=row.expires_us,
        )

    def exported(self) -> Rows:
        """Accounts and users, with the hashes of their secrets; nothing that passes."""
        with self._catalog.reading() as tx:
            return rows_of(tx, metadata, {tokens.name, logins.name})

    def imported(self, rows: Rows) -> None:
        """Put accounts and users that were exported; a user who is there already stays. May run twice.

        Raises:
            SetupError: a row does not fit; nothing was changed.
        """
        with self._catalog.writing() as tx:
            put_missing(tx, metadata, rows)

    def close(self) -> None:
        """Close every connection."""
        self._catalog.close()


def open_identity_database(path: Path, clock: Callable[[], int] | None = None) -> IdentityDatabase:
    """Open (and make, and bring up to date) the identity database at ``path``, which only its owner may read.

    ``clock`` replaces the database's clock in tests of time.

    Raises:
        SetupError: it cannot be opened, is no database, or was written by a newer release.
    """
    try:
        # Never a file that is there: closing it would end SQLite's locks of this process on it, and then the next
        # process to leave the database removes a log that this one goes on writing to.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        pass
    except OSError as error:
        raise SetupError(f"the identity database {path} cannot be opened: {error.strerror}") from error
    return IdentityDatabase(Catalog(open_database(path, "migrations_identity"), clock))
