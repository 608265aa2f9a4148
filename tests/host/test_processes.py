"""Which processes count as a server."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from snaphold.engines.mariadb.engine import MariaDB
from snaphold.host.processes import Spawned, end_process, find_server, spawn_detached
from snaphold.sandbox import Sandbox


@contextmanager
def running(program: Path, data: Path) -> Iterator[int]:
    """A real process of this name with a server's argument, which waits until its input ends; its id."""
    shutil.copy(shutil.which("sh") or "/bin/sh", program)
    argv: list[str | Path] = [program, "-c", "echo up; read -r line", "sh", f"--datadir={data}"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        yield process.pid


@pytest.mark.parametrize("name", ["mariadbd", "mysqld"])
def test_a_server_is_found_by_its_name_and_its_data(tmp_path: Path, name: str) -> None:
    """A program of this name with exactly this data directory is the server, and of no other directory."""
    with running(tmp_path / name, tmp_path / "data") as pid:
        found = find_server(tmp_path / "data", None, MariaDB.serves)
        assert found is not None
        assert found.pid == pid
        assert find_server(tmp_path / "dat", None, MariaDB.serves) is None
    assert find_server(tmp_path / "data", None, MariaDB.serves) is None


@pytest.mark.parametrize("name", ["mariadb-backup", "mariabackup"])
def test_the_backup_tool_is_no_server(tmp_path: Path, name: str) -> None:
    """The backup tool has the same argument and owner: a server that died during a backup is not taken as running."""
    with running(tmp_path / name, tmp_path / "data"):
        assert find_server(tmp_path / "data", None, MariaDB.serves) is None


def test_a_started_program_is_known_by_its_number(tmp_path: Path) -> None:
    """Whatever it calls itself; and how it ended is kept, when somebody else has reaped it too."""

    def started(*argv: str) -> Spawned:
        return spawn_detached(
            argv, sandbox=Sandbox(), environment={}, directory=tmp_path, owner=None, output=tmp_path / "said"
        )

    waiting = started("/bin/sleep", "60")
    assert waiting.process.alive()
    assert waiting.verdict(0) == "it has not ended"
    end_process(waiting.process, patience_s=0)
    assert not waiting.process.alive()
    assert waiting.verdict() == "it was ended by SIGKILL"
    assert started("/bin/sh", "-c", "exit 3").verdict() == "it ended with status 3"
