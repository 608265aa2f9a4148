from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snaphold.errors import OverLimit, SetupError, Unauthorized
from snaphold.identity.base import ADMIN, CREATOR, OBSERVER, Caller, Right
from snaphold.identity.embedded import DATABASE, EmbeddedIdentity, hash_password, open_embedded, password_fits

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
    """Roles give what the contract's section 9 says; none of ours gives everything; several add up."""
    caller = Caller(account="1", user="u", roles=frozenset(roles), issued_us=0, expires_us=0)
    assert {right for right in Right if caller.may(right)} == rights


@pytest.mark.parametrize("password", ["", "ü", "x" * 1000])
def test_password_hash(password: str) -> None:
    """A hash fits its own password only, and two hashes of one password differ."""
    kept = hash_password(password)
    assert password_fits(password, kept)
    assert not password_fits(password + "x", kept)
    assert hash_password(password) != kept


@given(st.text(max_size=8))
def test_any_text_as_role(text: str) -> None:
    """A caller asks for rights only by roles: the names of rights are no roles."""
    caller = Caller(account="1", user="u", roles=frozenset({text, OBSERVER}), issued_us=0, expires_us=0)
    assert caller.may(Right.READ)
    assert caller.may(Right.DELETE) == (text == ADMIN)
