import hashlib
import sqlite3
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, suppress
from multiprocessing import get_context
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snaphold.catalog.identity_db import open_identity_database
from snaphold.errors import OverLimit, SetupError, Unauthorized
from snaphold.identity.base import ADMIN, CREATOR, OBSERVER, Caller, Right, rights_given
from snaphold.identity.embedded import (
    DATABASE,
    EmbeddedIdentity,
    hash_password,
    open_embedded,
    password_fits,
    rights_of_user,
)

CANARY = "c4nary-p4ssw0rd"


class Clock:
    """A clock that a test sets, in microseconds."""

    def __init__(self) -> None:
        self.now_us = 1_000_000_000_000_000

    def __call__(self) -> int:
        """The time, in microseconds since the epoch."""
        return self.now_us


@pytest.fixture
def clock() -> Clock:
    """The time, as the test sets it."""
    return Clock()


@pytest.fixture
def identity(tmp_path: Path, clock: Clock) -> EmbeddedIdentity:
    """An empty identity whose tokens are good for an hour."""
    return open_embedded(tmp_path, 3600, clock)


def test_the_services_own_account_is_nobodys(identity: EmbeddedIdentity) -> None:
    """No user can be of the account whose container holds what the service saves of itself."""
    with pytest.raises(SetupError, match="the service's own"):
        identity.add_account("snaphold-service", "demo", "secret", [])


def test_password_login(identity: EmbeddedIdentity) -> None:
    """The right password gives a token that speaks for the user's account; named or left out, the account fits."""
    identity.add_account("1234", "demo", "secret", [OBSERVER])
    for account in (None, "1234"):
        login = identity.authenticate_password("demo", "secret", account)
        assert identity.validate(login.token) == login.caller
        assert (login.caller.account, login.caller.user, login.caller.roles) == ("1234", "demo", frozenset({OBSERVER}))


def test_logins_are_counted_over_all_regions(tmp_path: Path, clock: Clock, identity: EmbeddedIdentity) -> None:
    """Of one user so many attempts in any minute, by whatever way and in whatever region; nobody else is held up."""
    key = identity.add_account("1234", "demo", "secret", [])["api_key"]
    identity.add_account("1234", "other", "secret", [])
    here, there = (open_embedded(tmp_path, 3600, clock, logins_per_minute=2) for _ in range(2))
    with closing(here), closing(there):
        with pytest.raises(Unauthorized):
            here.authenticate_password("demo", "wrong", None)
        clock.now_us += 20_000_000
        there.authenticate_api_key("demo", key, None)
        for region in (here, there):
            with pytest.raises(OverLimit, match="Only 2 of these requests") as refused:
                region.authenticate_password("demo", "secret", None)
            assert refused.value.retry_after_s == 40
            region.authenticate_password("other", "secret", None)
        clock.now_us += 40_000_000
        here.authenticate_password("demo", "secret", None)
        with pytest.raises(OverLimit):
            there.authenticate_password("demo", "secret", None)


def test_api_key_login(identity: EmbeddedIdentity) -> None:
    """The API key that `add_account` showed gives a token."""
    added = identity.add_account("1234", "demo", None, [])
    login = identity.authenticate_api_key("demo", added["api_key"], None)
    assert identity.validate(login.token).account == "1234"
    assert added == {"account": "1234", "user": "demo", "api_key": added["api_key"]}


@pytest.mark.parametrize(
    ("user", "password", "account"),
    [("demo", "wrong", None), ("demo", "", None), ("nobody", "secret", None), ("demo", "secret", "9999")],
)
def test_wrong_login_says_nothing(identity: EmbeddedIdentity, user: str, password: str, account: str | None) -> None:
    """Whatever was wrong, the refusal is the same, by password and by API key."""
    identity.add_account("1234", "demo", "secret", [])
    identity.add_account("9999", "other", "secret", [])
    with pytest.raises(Unauthorized) as by_password:
        identity.authenticate_password(user, password, account)
    with pytest.raises(Unauthorized) as by_key:
        identity.authenticate_api_key(user, password, account)
    assert str(by_password.value) == str(by_key.value) == "Unable to authenticate user with credentials provided."


def test_no_password_no_password_login(identity: EmbeddedIdentity) -> None:
    """A user without a password cannot log in by any, the empty one included."""
    identity.add_account("1234", "demo", None, [])
    for password in ("", "secret"):
        with pytest.raises(Unauthorized):
            identity.authenticate_password("demo", password, None)


def test_token_expires(identity: EmbeddedIdentity, clock: Clock) -> None:
    """A token is good until its lifetime is over, and not a microsecond longer."""
    identity.add_account("1234", "demo", "secret", [])
    login = identity.authenticate_password("demo", "secret", None)
    assert login.caller.expires_us - login.caller.issued_us == 3_600_000_000
    clock.now_us = login.caller.expires_us - 1
    assert identity.validate(login.token) == login.caller
    clock.now_us = login.caller.expires_us
    with pytest.raises(Unauthorized):
        identity.validate(login.token)


def test_unknown_token(identity: EmbeddedIdentity) -> None:
    """A token that was never issued is refused."""
    with pytest.raises(Unauthorized):
        identity.validate("notused")


def test_same_user_again(identity: EmbeddedIdentity) -> None:
    """A user name is taken once over all accounts; the second is refused and changes nothing."""
    identity.add_account("1234", "demo", "secret", [])
    for account in ("1234", "9999"):
        with pytest.raises(SetupError, match="already"):
            identity.add_account(account, "demo", "other", [ADMIN])
    assert identity.authenticate_password("demo", "secret", None).caller.account == "1234"


@pytest.mark.parametrize(
    ("account", "user", "password", "role"),
    [
        ("../x", "demo", "p", ADMIN),
        ("", "demo", "p", ADMIN),
        ("a" * 65, "demo", "p", ADMIN),
        ("1234", "", "p", ADMIN),
        ("1234", "a b", "p", ADMIN),
        ("1234", "demo", "", ADMIN),
        ("1234", "demo", "p", "dbaas:king"),
    ],
)
def test_names_that_do_not_fit(identity: EmbeddedIdentity, account: str, user: str, password: str, role: str) -> None:
    """An account is part of paths: what could leave its directory is refused; so are unknown roles, empty secrets."""
    with pytest.raises(SetupError):
        identity.add_account(account, user, password, [role])


def test_nothing_in_clear(identity: EmbeddedIdentity, tmp_path: Path) -> None:
    """The files hold neither password, API key nor token, and only their owner may read them."""
    added = identity.add_account("1234", "demo", CANARY, [])
    login = identity.authenticate_password("demo", CANARY, None)
    files = sorted(tmp_path.glob(f"{DATABASE}*"))
    kept = b"".join(file.read_bytes() for file in files)
    assert b"demo" in kept
    for secret in (CANARY, added["api_key"], login.token):
        assert secret.encode() not in kept
        assert secret not in repr(login)
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


def test_another_process_adds(identity: EmbeddedIdentity, tmp_path: Path, clock: Clock) -> None:
    """What one open identity adds, another one of the same directory sees at once."""
    other = open_embedded(tmp_path, 3600, clock)
    other.add_account("1234", "demo", "secret", [])
    login = identity.authenticate_password("demo", "secret", None)
    assert other.validate(login.token) == login.caller


@pytest.fixture
def logins(identity: EmbeddedIdentity) -> dict[str, str]:
    """A token of demo by its password, one by its API key, one of another user of the account, one of another account.

    Beside them, under ``key``, the API key itself.
    """
    key = identity.add_account("1234", "demo", "secret", [])["api_key"]
    identity.add_account("1234", "colleague", "secret", [OBSERVER])
    identity.add_account("9999", "other", "secret", [])
    return {
        "password": identity.authenticate_password("demo", "secret", None).token,
        "api key": identity.authenticate_api_key("demo", key, None).token,
        "colleague": identity.authenticate_password("colleague", "secret", None).token,
        "other": identity.authenticate_password("other", "secret", None).token,
        "key": key,
    }


def good(identity: EmbeddedIdentity, logins: dict[str, str]) -> set[str]:
    """Which of the four tokens are still good."""
    found = set()
    for name in ("password", "api key", "colleague", "other"):
        with suppress(Unauthorized):
            identity.validate(logins[name])
            found.add(name)
    return found


ALL = {"password", "api key", "colleague", "other"}


@pytest.mark.parametrize(
    ("revoke", "left"),
    [
        (lambda identity: identity.disable("1234", "demo"), {"colleague", "other"}),
        (lambda identity: identity.disable("1234", None), {"other"}),
        (lambda identity: identity.remove("1234", "demo"), {"colleague", "other"}),
        (lambda identity: identity.remove("1234", None), {"other"}),
        (lambda identity: identity.change_password("1234", "demo", "new"), {"colleague", "other"}),
        (lambda identity: identity.end_tokens("1234", "demo"), {"colleague", "other"}),
        (lambda identity: identity.end_tokens("1234", None), {"other"}),
        (
            lambda identity: identity.remove_api_key("1234", "demo", identity.api_keys("1234", "demo")[0].id),
            ALL - {"api key"},
        ),
    ],
    ids=["disable user", "disable account", "remove user", "remove account", "password", "end", "end all", "key"],
)
def test_tokens_that_end(
    identity: EmbeddedIdentity, logins: dict[str, str], revoke: Callable[[EmbeddedIdentity], object], left: set[str]
) -> None:
    """What is revoked ends the tokens that rested on it, at once, and nobody else's; the identity has changed."""
    assert good(identity, logins) == ALL
    before = identity.version()
    revoke(identity)
    assert identity.version() != before
    assert good(identity, logins) == left


def test_the_version_stays_where_nothing_is_revoked(identity: EmbeddedIdentity, logins: dict[str, str]) -> None:
    """Neither reading nor a login, good or bad, nor a new user ends what was cached for a version."""
    before = identity.version()
    assert good(identity, logins) == ALL
    identity.authenticate_password("demo", "secret", None)
    with pytest.raises(Unauthorized):
        identity.authenticate_password("demo", "wrong", None)
    identity.add_account("1234", "new", "secret", [])
    identity.end("a token that does not exist")
    assert identity.version() == before


@pytest.mark.parametrize("user", ["demo", None])
def test_a_disabled_user(identity: EmbeddedIdentity, logins: dict[str, str], user: str | None) -> None:
    """Neither password nor API key lets a disabled user in, nor do peers find it; enabled, it is as before.

    The tokens of before stay ended.
    """
    identity.disable("1234", user)
    for log_in, secret in ((identity.authenticate_password, "secret"), (identity.authenticate_api_key, logins["key"])):
        with pytest.raises(Unauthorized):
            log_in("demo", secret, None)
    assert identity.rights_of("demo", "1234") == frozenset()
    identity.enable("1234", user)
    assert identity.rights_of("demo", "1234") == frozenset(Right)
    assert identity.authenticate_password("demo", "secret", None).caller.account == "1234"
    assert good(identity, logins).isdisjoint({"password", "api key"})


def test_disabled_alone_and_with_the_account(identity: EmbeddedIdentity, logins: dict[str, str]) -> None:
    """A user who was disabled alone stays so when the whole account is disabled and enabled."""
    del logins
    identity.disable("1234", "demo")
    identity.disable("1234", None)
    identity.enable("1234", None)
    assert identity.authenticate_password("colleague", "secret", None).caller.user == "colleague"
    with pytest.raises(Unauthorized):
        identity.authenticate_password("demo", "secret", None)
    listed = {one.name: (one.account_enabled, one.enabled, one.tokens) for one in identity.users()}
    assert listed == {"demo": (True, False, 0), "colleague": (True, True, 1), "other": (True, True, 1)}


def test_another_password(identity: EmbeddedIdentity, logins: dict[str, str]) -> None:
    """Only the new password is good; API keys stay."""
    identity.change_password("1234", "demo", "new")
    with pytest.raises(Unauthorized):
        identity.authenticate_password("demo", "secret", None)
    identity.authenticate_password("demo", "new", None)
    identity.authenticate_api_key("demo", logins["key"], None)
    with pytest.raises(SetupError, match="empty"):
        identity.change_password("1234", "demo", "")


def test_several_api_keys(identity: EmbeddedIdentity, logins: dict[str, str]) -> None:
    """Each key of a user is good until it is removed; their ids tell nothing of them."""
    added = identity.add_api_key("1234", "demo")
    first, second = (key.id for key in identity.api_keys("1234", "demo"))
    assert (second, added["account"], added["user"]) == (added["id"], "1234", "demo")
    for key in (logins["key"], added["api_key"]):
        identity.authenticate_api_key("demo", key, None)
        assert not {first, second} & {key[start : start + 12] for start in range(len(key))}
    assert identity.remove_api_key("1234", "demo", first) == 2
    with pytest.raises(Unauthorized):
        identity.authenticate_api_key("demo", logins["key"], None)
    identity.authenticate_api_key("demo", added["api_key"], None)


def test_a_removed_account_can_be_added_again(identity: EmbeddedIdentity, logins: dict[str, str]) -> None:
    """With another user, whose account has what it had; nothing of the old users is left."""
    assert sorted(identity.remove("1234", None)) == ["colleague", "demo"]
    assert [one.account for one in identity.users()] == ["9999"]
    identity.add_account("1234", "demo", "another", [])
    assert good(identity, logins) == {"other"}
    with pytest.raises(Unauthorized):
        identity.authenticate_password("demo", "secret", None)


@pytest.mark.parametrize(("account", "user"), [("none", None), ("none", "demo"), ("1234", "none"), ("9999", "demo")])
def test_nobody_is_revoked_by_mistake(
    identity: EmbeddedIdentity, logins: dict[str, str], account: str, user: str | None
) -> None:
    """An account that is not there, or a user who is in another one, is refused, and everybody stays as they were."""
    changes: list[Callable[[str, str | None], object]] = [
        identity.disable, identity.enable, identity.remove, identity.end_tokens
    ]  # fmt: skip
    for change in changes:
        with pytest.raises(SetupError, match="there is no"):
            change(account, user)
    for key in (identity.add_api_key, identity.api_keys):
        with pytest.raises(SetupError, match="there is no"):
            key(account, user or "demo")
    with pytest.raises(SetupError, match="no API key"):
        identity.remove_api_key("9999", "other", identity.api_keys("1234", "demo")[0].id)
    assert good(identity, logins) == ALL


@pytest.mark.parametrize("revoke", ["disable", "remove", "password"])
def test_a_login_that_a_revocation_overtakes(
    tmp_path: Path, identity: EmbeddedIdentity, logins: dict[str, str], revoke: str
) -> None:
    """No token comes of a login whose user was looked up before the revocation: its password takes time to check."""
    del logins
    database = open_identity_database(tmp_path / DATABASE)
    with closing(database):
        seen = database.find_user("demo")
        assert seen is not None
        key = next(iter(seen.api_keys))
        if revoke == "disable":
            identity.disable("1234", "demo")
        elif revoke == "remove":
            identity.remove("1234", "demo")
        else:
            identity.change_password("1234", "demo", "new")
            identity.remove_api_key("1234", "demo", key)
        assert database.add_token("0" * 64, seen, None, 1_000_000) is None
        assert database.add_token("1" * 64, seen, key, 1_000_000) is None


def test_the_one_key_of_an_older_release(tmp_path: Path) -> None:
    """A user's API key outlives the upgrade that made room for several, and its tokens do too."""
    path = tmp_path / DATABASE
    with closing(sqlite3.connect(path)) as old:
        old.executescript(OLD)
        old.execute("INSERT INTO users VALUES ('demo', '1234', NULL, ?, '[]', 1)", [_sha256("the-key")])
        old.execute("INSERT INTO tokens VALUES (?, 'demo', 1, ?)", [_sha256("the-token"), 1 << 60])
        old.commit()
    with closing(open_embedded(tmp_path, 3600)) as identity:
        assert identity.validate("the-token").user == "demo"
        login = identity.authenticate_api_key("demo", "the-key", None)
        assert identity.remove_api_key("1234", "demo", identity.api_keys("1234", "demo")[0].id) == 1
        with pytest.raises(Unauthorized):
            identity.validate(login.token)
        assert identity.validate("the-token").user == "demo"
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_process_of_the_earlier_release_goes_on(tmp_path: Path) -> None:
    """A process that has the database open while a newer release migrates it can still log users in, by either way.

    The statements are those of the release before API keys had a table of their own.
    """
    with closing(sqlite3.connect(tmp_path / DATABASE)) as old:
        old.executescript(OLD)
        kept = hash_password("secret")
        old.execute("INSERT INTO users VALUES ('demo', '1234', ?, ?, '[]', 1)", [kept, _sha256("the-key")])
        old.commit()
        with closing(open_embedded(tmp_path, 3600)) as identity:
            identity.add_account("1234", "new", "secret", [])
            found = old.execute(
                "SELECT users.name, users.account, users.password_hash, users.api_key_sha256, users.roles,"
                " users.created_us FROM users WHERE users.name = 'demo'"
            ).fetchone()
            assert found == ("demo", "1234", kept, _sha256("the-key"), "[]", 1)
            old.execute(
                "INSERT INTO tokens (sha256, user, issued_us, expires_us) VALUES (?, 'demo', 1, ?)",
                [_sha256("the-token"), 1 << 60],
            )
            old.commit()
            assert identity.validate("the-token").user == "demo"


OLD = """
CREATE TABLE accounts (id VARCHAR(64) PRIMARY KEY NOT NULL, created_us BIGINT NOT NULL);
CREATE TABLE users (name VARCHAR(128) PRIMARY KEY NOT NULL, account VARCHAR(64) NOT NULL REFERENCES accounts (id),
    password_hash VARCHAR(255), api_key_sha256 VARCHAR(64) NOT NULL, roles JSON NOT NULL, created_us BIGINT NOT NULL);
CREATE TABLE tokens (sha256 VARCHAR(64) PRIMARY KEY NOT NULL, user VARCHAR(128) NOT NULL REFERENCES users (name),
    issued_us BIGINT NOT NULL, expires_us BIGINT NOT NULL);
CREATE INDEX ix_tokens_expires_us ON tokens (expires_us);
CREATE TABLE logins (user_sha256 VARCHAR(64) NOT NULL, at_us BIGINT NOT NULL);
CREATE TABLE alembic_version (version_num VARCHAR(32) PRIMARY KEY NOT NULL);
INSERT INTO alembic_version VALUES ('0001');
INSERT INTO accounts VALUES ('1234', 1);
"""


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _add(state_dir: str, number: int) -> str:
    with closing(open_embedded(Path(state_dir), 3600)) as identity:
        identity.add_account(f"a{number}", f"u{number}", "secret", [])
        return identity.authenticate_password(f"u{number}", "secret", None).token


def _account_of(state_dir: str, user: str) -> str:
    with closing(open_embedded(Path(state_dir), 3600)) as identity:
        return identity.authenticate_password(user, "secret", None).caller.account


def test_first_start_of_many_at_once(tmp_path: Path) -> None:
    """Several processes that open a new state directory at the same time all succeed."""
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        tokens = list(pool.map(_add, [str(tmp_path)] * 4, range(4)))
    identity = open_embedded(tmp_path, 3600)
    assert [identity.validate(token).account for token in tokens] == ["a0", "a1", "a2", "a3"]


def test_opened_twice_in_one_process(tmp_path: Path) -> None:
    """A process that opens the database twice goes on seeing what others write, and they what it writes."""
    with closing(open_embedded(tmp_path, 3600)) as first:
        first.add_account("1234", "demo", "secret", [])
        with closing(open_embedded(tmp_path, 3600)), ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            assert first.validate(pool.submit(_add, str(tmp_path), 0).result()).account == "a0"
            first.add_account("1234", "late", "secret", [])
            assert pool.submit(_account_of, str(tmp_path), "late").result() == "1234"
            assert first.validate(pool.submit(_add, str(tmp_path), 1).result()).account == "a1"


def test_not_a_database(tmp_path: Path) -> None:
    """A broken file is one clear line."""
    (tmp_path / DATABASE).write_bytes(b"no database at all, but long enough to look at" * 30)
    with pytest.raises(SetupError, match=DATABASE):
        open_embedded(tmp_path, 3600)


@pytest.mark.parametrize(
    ("roles", "rights"),
    [
        ([], set(Right)),
        (["member"], set(Right)),
        ([ADMIN], set(Right)),
        ([CREATOR], {Right.READ, Right.WRITE}),
        ([OBSERVER], {Right.READ}),
        ([OBSERVER, CREATOR], {Right.READ, Right.WRITE}),
        ([OBSERVER, "member"], {Right.READ}),
    ],
)
def test_rights(roles: list[str], rights: set[Right]) -> None:
    """Roles give what the contract's section 9 says; a user without one of ours may do everything; several add up."""
    assert rights_of_user(roles) == rights


def test_rights_are_denied_unless_given(identity: EmbeddedIdentity) -> None:
    """Roles that are not ours give nothing by themselves: only the embedded identity says what their bearers may do."""
    assert rights_given([]) == rights_given(["member"]) == frozenset()
    caller = Caller(account="1", user="u", roles=frozenset({"member"}), issued_us=0, expires_us=0)
    assert not any(caller.may(right) for right in Right)
    identity.add_account("1234", "demo", "secret", [])
    caller = identity.authenticate_password("demo", "secret", None).caller
    assert all(caller.may(right) for right in Right)
    assert identity.rights_of("demo", "another") == identity.rights_of("nobody", "1234") == frozenset()


@pytest.mark.parametrize("password", ["", "ü", "x" * 1000])
def test_password_hash(password: str) -> None:
    """A hash fits its own password only, and two hashes of one password differ."""
    kept = hash_password(password)
    assert password_fits(password, kept)
    assert not password_fits(password + "x", kept)
    assert hash_password(password) != kept


@given(st.text(max_size=8))
def test_any_text_as_role(text: str) -> None:
    """Only our three roles give rights: the names of rights are no roles."""
    rights = rights_of_user([text, OBSERVER])
    assert Right.READ in rights
    assert (Right.DELETE in rights) == (text == ADMIN)
