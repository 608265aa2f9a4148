"""The files that the internal accounts' passwords stand in."""

import os
from pathlib import Path

import pytest

from snaphold.engines.mariadb.accounts import init_sql, write_internal_accounts
from snaphold.errors import Unavailable


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, Path]:
    """The admin's, the backup tool's and the super account's file, as the host writes them."""
    admin, backup, super_file = tmp_path / "admin.cnf", tmp_path / "backup.cnf", tmp_path / "super.cnf"
    write_internal_accounts(admin, backup, super_file, tmp_path / "run" / "s", None)
    return admin, backup, super_file


def test_all_accounts_are_made_anew(files: tuple[Path, Path, Path]) -> None:
    """The init file names each account, and no password of theirs."""
    statements = init_sql(*files, series="10.11").decode()
    assert statements.count("CREATE OR REPLACE USER") == 3
    for path in files:
        assert path.read_text().split('password="')[1].split('"')[0] not in statements


def test_a_file_that_its_reader_blew_up_is_not_read_whole(files: tuple[Path, Path, Path]) -> None:
    """Without root the servers run as the host itself does: a terabyte in such a file costs it no memory."""
    os.truncate(files[1], 1 << 40)
    with pytest.raises(Unavailable, match="own account"):
        init_sql(*files, series="10.11")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[client]\nuser=u\n"])
def test_a_file_without_credentials_is_said_to_be_unreadable(files: tuple[Path, Path, Path], content: bytes) -> None:
    """Whatever stands in it, the fault says so, and names the file for the log only."""
    files[1].write_bytes(content)
    with pytest.raises(Unavailable, match="own account"):
        init_sql(*files, series="10.11")


def test_a_link_is_not_followed(files: tuple[Path, Path, Path]) -> None:
    """What the host reads as root is never another file that a link points to."""
    files[1].unlink()
    files[1].symlink_to(files[0])
    with pytest.raises(Unavailable, match="own account"):
        init_sql(*files, series="10.11")


def test_files_of_earlier_releases_are_read(files: tuple[Path, Path, Path]) -> None:
    """A server that an earlier release has started is still reached: its files have no quotes."""
    for path in files:
        path.write_text(path.read_text().replace('"', ""))
    assert init_sql(*files, series="10.11").decode().count("CREATE OR REPLACE USER") == 3


@pytest.mark.parametrize(("series", "has"), [("10.11", False), ("11.2", False), ("11.3", True), ("11.8", True)])
def test_rights_are_those_of_the_series(files: tuple[Path, Path, Path], series: str, *, has: bool) -> None:
    """From 11.3 on SHOW CREATE ROUTINE is a right, which the admin account needs to grant all rights on a database."""
    assert ("SHOW CREATE ROUTINE" in init_sql(*files, series=series).decode()) == has
