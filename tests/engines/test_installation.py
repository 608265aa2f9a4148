"""Finding a MariaDB: one of one version, or one clear line."""

import os
from pathlib import Path

import pytest

from snaphold.disk import closed_ancestor
from snaphold.engines.mariadb.installation import (
    Installation,
    find_installation,
    reachable_installation,
)
from snaphold.errors import SetupError


def _program(path: Path, line: str, status: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{line}'\nexit {status}\n")
    path.chmod(0o755)


def _tree(root: Path, *, server: str = "10.11.19", tool: str = "10.11.19") -> Path:
    _program(root / "usr/sbin/mariadbd", f"mariadbd  Ver {server}-MariaDB for debian-linux-gnu on x86_64")
    _program(root / "usr/bin/mariadb-backup", f"mariadb-backup based on MariaDB server {tool}-MariaDB debian-linux-gnu")
    _program(root / "usr/bin/mbstream", "mbstream")
    (root / "usr/share/mysql").mkdir(parents=True)
    (root / "usr/share/mysql/mysql_system_tables.sql").touch()
    (root / "usr/lib/x86_64-linux-gnu").mkdir(parents=True)
    return root


def test_an_unpacked_one_is_found_with_all_that_it_needs(tmp_path: Path) -> None:
    """``engine_dir`` names the root of the tree; programs, messages and libraries are looked for below it."""
    root = _tree(tmp_path / "root")
    found = find_installation(root)
    assert (found.version, found.series) == ("10.11.19", "10.11")
    assert found.mariadbd == root / "usr/sbin/mariadbd"
    assert found.mariabackup == root / "usr/bin/mariadb-backup"
    assert found.environment["LD_LIBRARY_PATH"] == str(root / "usr/lib/x86_64-linux-gnu")


def test_the_environment_hands_nothing_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands in our environment, secrets too, is none of a tool's business."""
    monkeypatch.setenv("SNAPHOLD_CANARY", "secret")
    assert "secret" not in find_installation(_tree(tmp_path / "root")).environment.values()


def test_tool_and_server_must_be_of_one_version(tmp_path: Path) -> None:
    """Nothing in the tools notices a wrong pair, so it is refused here, naming both."""
    root = _tree(tmp_path / "root", tool="11.8.2")
    with pytest.raises(SetupError, match=r"server is 10\.11\.19 .* tool is 11\.8\.2"):
        find_installation(root)


def test_an_old_one_is_refused(tmp_path: Path) -> None:
    """10.11 is the least."""
    with pytest.raises(SetupError, match=r"MariaDB 10\.6\.20 .* too old: 10\.11"):
        find_installation(_tree(tmp_path / "root", server="10.6.20", tool="10.6.20"))


@pytest.mark.parametrize("missing", ["usr/sbin/mariadbd", "usr/bin/mariadb-backup", "usr/bin/mbstream"])
def test_a_missing_program_is_named(tmp_path: Path, missing: str) -> None:
    """One line says what is not there and what to do."""
    root = _tree(tmp_path / "root")
    (root / missing).unlink()
    with pytest.raises(SetupError, match=f"^there is no {Path(missing).name} under {root}: run 'make setup'"):
        find_installation(root)


def test_one_that_does_not_run_is_said_so(tmp_path: Path) -> None:
    """A missing library shows as the program's own last words."""
    root = _tree(tmp_path / "root")
    _program(root / "usr/sbin/mariadbd", "cannot open shared object file", 127)
    with pytest.raises(SetupError, match="does not report a MariaDB version: cannot open shared object file"):
        find_installation(root)


def test_a_closed_one_is_copied_once(tmp_path: Path, state_dir: Path) -> None:
    """Servers of other system users cannot run what lies below a private directory: they get a copy, made once."""
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    installation = find_installation(_tree(private / "root"))
    (state_dir / "engine").mkdir()
    (state_dir / "engine" / "tmp.crashed").mkdir()

    first = reachable_installation(installation, state_dir)
    inode = first.mariadbd.stat().st_ino
    second = reachable_installation(installation, state_dir)

    assert first.root == state_dir / "engine" / "10.11.19"
    assert closed_ancestor(first.mariadbd) is None
    assert closed_ancestor(first.share) is None
    assert second.mariadbd.stat().st_ino == inode
    assert sorted(path.name for path in (state_dir / "engine").iterdir()) == ["10.11.19"]


def test_an_open_one_is_used_where_it_is(state_dir: Path) -> None:
    """No copy where everybody can reach it."""
    root = _tree(state_dir / "root")
    for directory, _, _ in os.walk(root):
        Path(directory).chmod(0o755)
    installation = find_installation(root)
    assert reachable_installation(installation, state_dir) == installation


@pytest.mark.engine
def test_the_projects_own_is_found_without_being_told(engine: Installation) -> None:
    """``make setup`` leaves one that is found: unpacked beside the code, or installed."""
    assert engine.mariadbd.is_file()
    assert engine.version.count(".") == 2
