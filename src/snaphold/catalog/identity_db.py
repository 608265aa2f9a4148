"""The identity database: accounts, users, API keys, tokens and logins, shared by the regions of a state directory.

Secrets are stored as hashes only. Several processes use it at the same time.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc

from snaphold.catalog.database import Catalog, Transaction, open_database
from snaphold.catalog.limits import count_in
from snaphold.catalog.saved import Rows, put_missing, rows_of
from snaphold.errors import SetupError

metadata = sa.MetaData()

accounts = sa.Table(
    "accounts",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("created_us", sa.BigInteger, nullable=False),
    sa.Column("disabled_us", sa.BigInteger),  # since when none of its users may do anything
)

users = sa.Table(
    "users",
    metadata,
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("account", sa.String(64), sa.ForeignKey("accounts.id"), nullable=False),
    sa.Column("password_hash", sa.String(255)),
    sa.Column("roles", sa.JSON, nullable=False),
    sa.Column("created_us", sa.BigInteger, nullable=False),
    sa.Column("disabled_us", sa.BigInteger),  # since when this user may do nothing
)

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", sa.String(16), primary_key=True),
    sa.Column("user", sa.String(128), sa.ForeignKey("users.name"), nullable=False, index=True),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("created_us", sa.BigInteger, nullable=False),
)

tokens = sa.Table(
    "tokens",
    metadata,
    sa.Column("sha256", sa.String(64), primary_key=True),
    sa.Column("user", sa.String(128), sa.ForeignKey("users.name"), nullable=False, index=True),
    sa.Column("issued_us", sa.BigInteger, nullable=False),
    sa.Column("expires_us", sa.BigInteger, nullable=False, index=True),
    sa.Column("api_key", sa.String(16)),  # the id of the key that it was issued for; null: for a password
)

logins = sa.Table(
    "logins",
    metadata,
    sa.Column("user_sha256", sa.String(64), nullable=False),  # of the name that was given, whoever it is
    sa.Column("at_us", sa.BigInteger, nullable=False, index=True),
    sa.Index("ix_logins_user_sha256_at_us", "user_sha256", "at_us"),
)

revocations = sa.Table(  # one row; not in a saved state
    "revocations",
    metadata,
    sa.Column("count", sa.BigInteger, nullable=False),  # only grows, whenever a token may have lost its meaning
)

_ENABLED = users.c.disabled_us.is_(None) & accounts.c.disabled_us.is_(None)


@dataclass(frozen=True, kw_only=True)
class UserRow:
    """A user of an account who may log in. ``password_hash`` None: the user has no password.

    ``api_keys``: the SHA-256 of each API key, by the key's id.
    """

    name: str
    account: str
    password_hash: str | None = field(repr=False)
    api_keys: Mapping[str, str] = field(repr=False)
    roles: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class TokenRow:
    """A token that has not expired, and its user."""

    user: str
    account: str
    roles: Sequence[str]
    issued_us: int
    expires_us: int


@dataclass(frozen=True, kw_only=True)
class UserListing:
    """A user as an administrator sees it. ``name`` None: an account without users."""

    account: str
    account_enabled: bool
    name: str | None
    enabled: bool
    roles: Sequence[str]
    has_password: bool
    api_keys: int
    tokens: int  # that have not expired
    created_us: int


@dataclass(frozen=True, kw_only=True)
class ApiKeyListing:
    """An API key as an administrator sees it."""

    id: str
    created_us: int


class IdentityDatabase:
    """The identity database. Each method is one transaction, and may raise ``Unavailable``.

    Methods that name an account, and a user of it or None for all of them, raise ``SetupError`` where there is none.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._counted: tuple[object, object] = (object(), object())  # the database's version, the count read in it

    def version(self) -> object:
        """A value that changes after each revocation, by any process, and not with logins.

        It takes microseconds and never waits, so that it can be read before each request: the count of revocations is
        read only after something in the database has changed.
        """
        version = self._catalog.version()
        known, count = self._counted
        if version != known:
            count = self._catalog.read_at_once(str(sa.select(revocations.c.count)))
            self._counted = (version, count)
        return count

    def add_user(self, user: UserRow) -> None:
        """Add a user, and its account if that is new.

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
                roles=list(user.roles),
                created_us=tx.now_us,
            )
            try:
                tx.connection.execute(row)
            except exc.IntegrityError as error:
                raise SetupError(f"there is a user {user.name} already; nothing was changed") from error
            for key_id, sha256 in user.api_keys.items():
                _insert_key(tx, user.name, key_id, sha256)

    def find_user(self, name: str) -> UserRow | None:
        """The user of this name; None: no such user, or the user or the account is disabled."""
        with self._catalog.reading() as tx:
            found = users.join(accounts, accounts.c.id == users.c.account)
            row = tx.connection.execute(sa.select(users).select_from(found).where(users.c.name == name, _ENABLED))
            user = row.one_or_none()
            if user is None:
                return None
            keys = sa.select(api_keys.c.id, api_keys.c.sha256).where(api_keys.c.user == name)
            return UserRow(
                name=user.name,
                account=user.account,
                password_hash=user.password_hash,
                api_keys={key.id: key.sha256 for key in tx.connection.execute(keys)},
                roles=user.roles,
            )

    def users(self) -> list[UserListing]:
        """Every account with its users."""
        with self._catalog.reading() as tx:
            keys = sa.select(sa.func.count()).where(api_keys.c.user == users.c.name).scalar_subquery()
            alive = (tokens.c.user == users.c.name) & (tokens.c.expires_us > tx.now_us)
            live = sa.select(sa.func.count()).where(alive).scalar_subquery()
            statement = (
                sa.select(
                    accounts.c.id.label("account"),
                    accounts.c.disabled_us.label("account_disabled_us"),
                    accounts.c.created_us.label("account_created_us"),
                    users,
                    keys.label("keys"),
                    live.label("tokens"),
                )
                .select_from(accounts.outerjoin(users, users.c.account == accounts.c.id))
                .order_by(accounts.c.id, users.c.name)
            )
            return [
                UserListing(
                    account=row.account,
                    account_enabled=row.account_disabled_us is None,
                    name=row.name,
                    enabled=row.disabled_us is None,
                    roles=row.roles or [],
                    has_password=row.password_hash is not None,
                    api_keys=row.keys,
                    tokens=row.tokens,
                    created_us=row.created_us or row.account_created_us,
                )
                for row in tx.connection.execute(statement)
            ]

    def disable(self, account: str, user: str | None) -> int:
        """Disable a user or an account and end its tokens; their number. An older time of disabling stays."""
        with self._catalog.writing() as tx:
            _require(tx, account, user)
            table, mine = _row_of(account, user)
            since = table.update().where(mine, table.c.disabled_us.is_(None))
            tx.connection.execute(since.values(disabled_us=tx.now_us))
            return _end_tokens(tx, account, user)

    def enable(self, account: str, user: str | None) -> None:
        """Enable a user or an account. A user who was disabled alone stays disabled when the account is enabled."""
        with self._catalog.writing() as tx:
            _require(tx, account, user)
            table, mine = _row_of(account, user)
            tx.connection.execute(table.update().where(mine).values(disabled_us=None))

    def remove(self, account: str, user: str | None) -> list[str]:
        """Delete a user, or an account with all its users, with their keys and tokens; the names of the users."""
        with self._catalog.writing() as tx:
            _require(tx, account, user)
            names = list(tx.connection.execute(sa.select(users.c.name).where(_users(account, user))).scalars())
            _count_revocation(tx)
            for table in (tokens, api_keys):
                tx.connection.execute(table.delete().where(table.c.user.in_(names)))
            tx.connection.execute(users.delete().where(_users(account, user)))
            if user is None:
                tx.connection.execute(accounts.delete().where(accounts.c.id == account))
            return names

    def change_password(self, account: str, user: str, password_hash: str) -> int:
        """Change the password of a user and end its tokens; their number."""
        with self._catalog.writing() as tx:
            _require(tx, account, user)
            tx.connection.execute(users.update().where(users.c.name == user).values(password_hash=password_hash))
            return _end_tokens(tx, account, user)

    def add_api_key(self, account: str, user: str, key_id: str, sha256: str) -> None:
        """Add an API key to a user."""
        with self._catalog.writing() as tx:
            _require(tx, account, user)
            _insert_key(tx, user, key_id, sha256)

    def api_keys(self, account: str, user: str) -> list[ApiKeyListing]:
        """A user's API keys, the oldest first."""
        with self._catalog.reading() as tx:
            _require(tx, account, user)
            statement = sa.select(api_keys.c.id, api_keys.c.created_us).where(api_keys.c.user == user)
            rows = tx.connection.execute(statement.order_by(api_keys.c.created_us, api_keys.c.id))
            return [ApiKeyListing(id=row.id, created_us=row.created_us) for row in rows]

    def remove_api_key(self, account: str, user: str, key_id: str) -> int:
        """Delete an API key and end the tokens that were issued for it; their number.

        Raises:
            SetupError: this user has no such key.
        """
        with self._catalog.writing() as tx:
            _require(tx, account, user)
            mine = (api_keys.c.user == user) & (api_keys.c.id == key_id)
            if not tx.connection.execute(api_keys.delete().where(mine)).rowcount:
                raise SetupError(f"user {user} of account {account} has no API key {key_id}")
            _count_revocation(tx)
            issued = tokens.delete().where(tokens.c.user == user, tokens.c.api_key == key_id)
            return tx.connection.execute(issued).rowcount

    def end_tokens(self, account: str, user: str | None) -> int:
        """End the tokens of a user, or of all users of an account; their number."""
        with self._catalog.writing() as tx:
            _require(tx, account, user)
            return _end_tokens(tx, account, user)

    def end_token(self, sha256: str) -> None:
        """End a token. An unknown token has ended already."""
        with self._catalog.writing() as tx:
            if tx.connection.execute(tokens.delete().where(tokens.c.sha256 == sha256)).rowcount:
                _count_revocation(tx)

    def count_login(self, user_sha256: str, limit: int) -> int:
        """Count a login and return 0, or, if it exceeds the limit, the microseconds to wait."""
        with self._catalog.writing() as tx:
            return count_in(logins, tx, {"user_sha256": user_sha256}, limit)

    def add_token(self, sha256: str, user: UserRow, api_key: str | None, lifetime_us: int) -> tuple[int, int] | None:
        """Add a token and delete the expired ones. Returns when it was issued and when it expires.

        None: the user was disabled or removed since it was read, or what it logged in with (the API key of this id;
        None: the password) was taken back. Nothing is kept then.
        """
        with self._catalog.writing() as tx:
            tx.connection.execute(tokens.delete().where(tokens.c.expires_us <= tx.now_us))
            mine = (users.c.name == user.name) & (users.c.account == user.account) & _ENABLED
            if api_key is None:
                mine &= users.c.password_hash == user.password_hash
            else:
                mine &= sa.exists().where(api_keys.c.id == api_key, api_keys.c.user == users.c.name)
            found = users.join(accounts, accounts.c.id == users.c.account)
            if tx.connection.execute(sa.select(users.c.name).select_from(found).where(mine)).first() is None:
                return None
            issued_us, expires_us = tx.now_us, tx.now_us + lifetime_us
            token = {"sha256": sha256, "user": user.name, "issued_us": issued_us, "expires_us": expires_us}
            tx.connection.execute(tokens.insert().values(token | {"api_key": api_key}))
        return issued_us, expires_us

    def find_token(self, sha256: str) -> TokenRow | None:
        """The token of this hash, unless it is unknown or expired, or its user is disabled."""
        found = tokens.join(users, users.c.name == tokens.c.user).join(accounts, accounts.c.id == users.c.account)
        statement = (
            sa.select(tokens.c.user, users.c.account, users.c.roles, tokens.c.issued_us, tokens.c.expires_us)
            .select_from(found)
            .where(tokens.c.sha256 == sha256, _ENABLED)
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
        """Accounts and users, with the hashes of their secrets; no tokens or logins."""
        with self._catalog.reading() as tx:
            return rows_of(tx, metadata, {tokens.name, logins.name, revocations.name})

    def imported(self, rows: Rows) -> None:
        """Import accounts and users that were exported. Existing users are kept as they are. It may run twice.

        Raises:
            SetupError: a row does not fit; nothing was changed.
        """
        with self._catalog.writing() as tx:
            there = set(tx.connection.execute(sa.select(users.c.name)).scalars())
            keys = [*rows.get(api_keys.name, ()), *_keys_of_old_users(rows.get(users.name, ()))]
            missing = [key for key in keys if key["user"] not in there]  # a key that was removed stays removed
            put_missing(tx, metadata, {**rows, api_keys.name: missing})

    def close(self) -> None:
        """Close every connection."""
        self._catalog.close()


def _require(tx: Transaction, account: str, user: str | None) -> None:
    """Raise ``SetupError`` if the account, or the user in it, does not exist."""
    if tx.connection.execute(sa.select(accounts.c.id).where(accounts.c.id == account)).first() is None:
        raise SetupError(f"there is no account {account}")
    mine = (users.c.account == account) & (users.c.name == user)
    if user is not None and tx.connection.execute(sa.select(users.c.name).where(mine)).first() is None:
        raise SetupError(f"there is no user {user} in account {account}")


def _row_of(account: str, user: str | None) -> tuple[sa.Table, sa.ColumnElement[bool]]:
    return (accounts, accounts.c.id == account) if user is None else (users, _users(account, user))


def _users(account: str, user: str | None) -> sa.ColumnElement[bool]:
    mine = users.c.account == account
    return mine if user is None else mine & (users.c.name == user)


def _end_tokens(tx: Transaction, account: str, user: str | None) -> int:
    """End tokens; the number of those that had not expired."""
    mine = tokens.c.user.in_(sa.select(users.c.name).where(_users(account, user)))
    live = sa.select(sa.func.count()).where(mine, tokens.c.expires_us > tx.now_us)
    count = int(tx.connection.execute(live).scalar_one())
    _count_revocation(tx)
    tx.connection.execute(tokens.delete().where(mine))
    return count


def _count_revocation(tx: Transaction) -> None:
    tx.connection.execute(revocations.update().values(count=revocations.c.count + 1))


def _insert_key(tx: Transaction, user: str, key_id: str, sha256: str) -> None:
    """Keep a key that counts as newer than the user's others, also when the clock stands still or was set back."""
    newest = tx.connection.execute(
        sa.select(sa.func.max(api_keys.c.created_us)).where(api_keys.c.user == user)
    ).scalar()
    created_us = tx.now_us if newest is None else max(tx.now_us, newest + 1)
    tx.connection.execute(api_keys.insert().values(id=key_id, user=user, sha256=sha256, created_us=created_us))


def _keys_of_old_users(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The API keys of users that an older release has saved: each had one, which stood in the user's own row."""
    return [
        {"id": new_key_id(), "user": row["name"], "sha256": row["api_key_sha256"], "created_us": row["created_us"]}
        for row in rows
        if row.get("api_key_sha256")
    ]


def new_key_id() -> str:
    """The name of an API key in lists, which reveals nothing of the key."""
    return secrets.token_hex(6)


def open_identity_database(path: Path, clock: Callable[[], int] | None = None) -> IdentityDatabase:
    """Open the identity database at ``path``, which only its owner may read; create or upgrade it first if needed.

    ``clock`` replaces the database's clock in tests of time.

    Raises:
        SetupError: it cannot be opened, is no database, or was written by a newer release.
    """
    return IdentityDatabase(Catalog(open_database(path, "migrations_identity"), clock))
