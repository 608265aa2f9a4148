"""What tenants are told of a failure, and what stays in the log."""

from pathlib import Path

import pytest
import structlog

from snaphold.errors import BadRequest, Damaged, Permanent, SetupError, Transient, Unavailable, in_full
from snaphold.reasons import HELD_BACK, keep_private, reason_of, screened, screened_from_host

STATE = Path("/srv/the state of a test")


@pytest.fixture(autouse=True)
def a_private_place() -> None:
    """A directory of this machine."""
    keep_private([STATE, None, Path("/")])


@pytest.mark.parametrize("kind", [Permanent, Transient, Damaged, Unavailable, BadRequest])
def test_a_message_is_for_people(kind: type[Permanent]) -> None:
    """An error's message is the reason; its detail is not."""
    assert reason_of(kind("the backup is too old", detail=f"{STATE}/x")) == "the backup is too old"


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(FileNotFoundError(2, "No such file", f"{STATE}/x"), id="an error of the system"),
        pytest.param(KeyError("x"), id="a mistake of ours"),
        pytest.param(SetupError("the key file is missing"), id="what the operator must mend"),
    ],
)
def test_nobody_is_told_of_accidents(error: Exception) -> None:
    """What was not raised for people is not shown to them."""
    assert reason_of(error) == HELD_BACK


@pytest.mark.parametrize(
    "text",
    [
        f"mariabackup failed: {STATE}/instances/x/data",
        "the server did not start: /usr/sbin/mariadbd",
        "[Errno 2] No such file or directory: 'x'",
        "Access denied for user 'snaphold_backup'@'localhost'",
        "the backup failed: /opt/backups/instances/x: no space left",
        "Can't create file '/data1/snaphold/x' (Errcode: 28)",
        "no such file (path=/mnt/state/x)",
        "Access denied for user 'snaphold_0123456789abcdef0123456789abcdef'@'localhost'",
    ],
    ids=[
        "our directory",
        "a program",
        "an error of the system",
        "an account",
        "another machine's directory",
        "a quoted path",
        "a path in parentheses",
        "the account with SUPER",
    ],
)
def test_the_last_guard(text: str) -> None:
    """A message in which a place or an account of ours is named after all is held back; the log has it."""
    with structlog.testing.capture_logs() as logged:
        assert reason_of(Permanent(text)) == HELD_BACK
    assert [line["reason"] for line in logged] == [text]


@pytest.mark.parametrize(
    "text",
    [
        "cannot connect through run/s",
        "the socket ../data/s is gone",
        "no space left on /srv",
        "http://control:8779/agent/v1 answered 500",
        "cannot reach 10.1.2.3:3306",
        "cannot reach fe80::1:2",
        "db7.internal does not answer",
        "AKIAIOSFODNN7EXAMPLE was refused",
        "Authorization: Bearer abc.def",
        "uid 310001 may not write",
        "process 4711 does not end",
        "Access denied for user snaphold_x",
    ],
)
def test_the_guard_of_a_hosts_reasons(text: str) -> None:
    """A host's reason that names a path, an address, an account, a key or a process of it is withheld."""
    with structlog.testing.capture_logs() as logged:
        assert screened_from_host(text) == HELD_BACK
    assert [line["reason"] for line in logged] == [text]


@pytest.mark.parametrize(
    "text",
    [
        "a chunk of shop/orders.ibd differs from what the backup tool wrote",
        "./od@0060d/ta@0020ble.ibd.delta: it ends before its last cluster does",
        "the restored table shop.orders is not sound: Size of datafile is 8192 at 12:30:45",
        "this host runs mariadb 10.11.19, not mariadb 11.8",
        "the backup needs 100 bytes, but the disk of its host has only 9 free, at 3 MB/s",
    ],
)
def test_what_a_host_may_say(text: str) -> None:
    """Names of tables and of files in a backup, versions, times and rates."""
    assert screened_from_host(text) == text


def test_what_passes_the_guard() -> None:
    """Names of a backup's own files, its objects, and addresses of other regions do; no reason is endless."""
    said = (
        "shop/orders.ibd and ./shop/items.ibd of /1234/z_CLOUDDB_BACKUPS/x.xbstream.gz, 1/2, 3 MB/s, and/or `a`/`b`:"
        " Region IAD refuses: http://10.0.0.1:8779/v1.0/1234 (see /backups)"
    )
    assert screened(said) == said
    assert screened("x" * 5000) == "x" * 1999 + "…"


def test_the_log_has_it_all() -> None:
    """In the log stands what happened, every detail, and what was the cause of it."""
    cause = FileNotFoundError(2, "No such file", "/x/y")
    inner = Permanent("the disk refuses", detail="block 7")
    inner.__cause__ = cause
    error = Permanent("the backup failed: the disk refuses", detail="")
    error.__cause__ = inner
    assert in_full(error) == (
        "the backup failed: the disk refuses <- the disk refuses <- block 7"
        " <- FileNotFoundError: [Errno 2] No such file: '/x/y'"
    )
