"""What a program in a sandbox cannot do, whoever it runs as."""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pymysql
import pytest

from snaphold.config import Settings
from snaphold.sandbox import Sandbox, command, launched, protection
from tests.conftest import processes_naming
from tests.support.instances import connect, instance_spec, promote, query, wait_for
from tests.support.servers import open_servers

AS_ROOT = os.geteuid() == 0
NOBODY = 65534
PYTHON = Path(sys.executable).resolve()
OFFERED = protection()
NEEDS_FILES = pytest.mark.skipif(not OFFERED.files, reason="the kernel has no Landlock")
NEEDS_CONNECTIONS = pytest.mark.skipif(not OFFERED.connections, reason="the kernel's Landlock knows no connections")
NEEDS_SIGNALS = pytest.mark.skipif(not OFFERED.signals, reason="the kernel's Landlock knows no signals")
LIBRARYS_OWN_SIGNALS = 0b11 << 31  # 32 and 33, which the C library uses itself and lets no program set


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with one that may be written and one that may not."""
    for name in ("own", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o777)
    (tmp_path / "other" / "secret").write_text("secret")
    return tmp_path


def run(
    place: Path, *argv: str | Path, ports: Sequence[int] = (), uid: int | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run a program to its end in a sandbox that may write ``own``."""
    sandbox = Sandbox(reads=[PYTHON.parents[1]], writes=[place / "own"], connects_to=ports)
    line = command(argv, sandbox=sandbox, uid=uid, gid=uid, environment={"PATH": "/bin"})
    return subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)


def python(place: Path, script: str, *, ports: Sequence[int] = ()) -> str:
    """The last line that a Python program said in a sandbox."""
    done = run(place, PYTHON, "-I", "-S", "-c", script, ports=ports)
    return (done.stderr or done.stdout).strip().splitlines()[-1]


def test_what_is_named_is_reached(place: Path) -> None:
    """A program works as usual in what is its own."""
    assert python(place, f"open({str(place / 'own' / 'x')!r}, 'w').write('1'); print('done')") == "done"
    assert (place / "own" / "x").read_text() == "1"


@NEEDS_FILES
@pytest.mark.parametrize(
    "script",
    [
        "open('{place}/other/secret').read()",
        "open('{place}/other/x', 'w')",
        "import os; os.unlink('{place}/other/secret')",
        "import os; os.rename('{place}/other/secret', '{place}/own/secret')",
        "import os; os.symlink('{place}/other/secret', '{place}/own/link')",
        "import os; os.link('{place}/other/secret', '{place}/own/link')",
        "import os; os.listdir('/tmp')",
        "open('/etc/shadow').read()",
        "import os; os.execv('/bin/sh', ['sh'])",
        pytest.param("import os; os.kill({parent}, 0)", marks=NEEDS_SIGNALS),
    ],
)
def test_what_is_not_named_is_not(place: Path, script: str) -> None:
    """Files elsewhere cannot be read, written, moved or linked, even where all may; nothing else can be run or hit."""
    said = python(place, script.format(place=place, parent=os.getpid()))
    assert said.startswith(("PermissionError", "OSError: [Errno 18]"))
    assert (place / "other" / "secret").read_text() == "secret"
    assert sorted(path.name for path in (place / "other").iterdir()) == ["secret"]


@NEEDS_CONNECTIONS
def test_connections_go_to_named_ports_only(place: Path) -> None:
    """A service of this machine, or one behind it, is not reached through a sandboxed program."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        script = f"import socket; socket.create_connection(('127.0.0.1', {port})); print('there')"
        assert python(place, script).startswith("PermissionError")
        assert python(place, script, ports=[port]) == "there"


@pytest.mark.parametrize(
    "uid", [None, pytest.param(NOBODY, marks=pytest.mark.skipif(not AS_ROOT, reason="only root can become another"))]
)
def test_no_right_is_left_or_gained(place: Path, uid: int | None) -> None:
    """No capability, none to be had, and no set-user-ID program gives one; also to root."""
    said = run(place, "/bin/cat", "/proc/self/status", uid=uid).stdout
    facts = dict(line.split(":", 1) for line in said.splitlines())
    wanted = {"CapPrm", "CapEff", "CapAmb", "CapInh", *(["CapBnd"] if AS_ROOT else [])}
    assert {name: int(facts[name], 16) for name in wanted} == dict.fromkeys(wanted, 0)
    assert facts["NoNewPrivs"].strip() == "1"
    assert set(facts["Uid"].split()) == {str(os.geteuid() if uid is None else uid)}
    assert int(facts["SigIgn"], 16) & ~LIBRARYS_OWN_SIGNALS == 0


def test_the_limit_of_open_files() -> None:
    """It is what is asked for, as far as the hard limit allows."""
    script = "import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    for asked, wanted in ((100, 100), (1 << 40, None)):
        line = command([PYTHON, "-I", "-S", "-c", script], sandbox=Sandbox(reads=[PYTHON.parents[1]]), open_files=asked)
        found = int(subprocess.run(line, capture_output=True, check=True).stdout)
        hard = int(subprocess.run(["bash", "-c", "ulimit -Hn"], capture_output=True, check=True).stdout)
        assert found == (wanted or hard)


def test_a_script_may_run_programs(place: Path) -> None:
    """An operator may put a script before a program; the files that both reach stay the same."""
    script = place / "own" / "script"
    script.write_text(f"#!/bin/sh\n/bin/echo run\n/bin/cat {place}/other/secret\n")
    script.chmod(0o755)
    done = run(place, script)
    assert done.stdout.splitlines()[0] == "run"
    assert "secret" not in done.stdout or not OFFERED.files


def test_a_program_that_cannot_be_started(place: Path) -> None:
    """The reason is said, and nothing is run with more rights than it was to have."""
    done = run(place, place / "none")
    assert done.returncode == 126
    assert (
        done.stderr == f"{place / 'none'} cannot be started: [Errno 2] No such file or directory: '{place / 'none'}'\n"
    )


def test_a_program_is_found_by_its_own_command_line() -> None:
    """Before the launcher has become the program, the program's command line stands behind its own."""
    line = [os.fsencode(word) for word in command(["/x/mariadbd", "--a"], sandbox=None)]
    assert launched(line) == launched([b"/x/mariadbd", b"--a"]) == [b"/x/mariadbd", b"--a"]


class Promoted:
    """An instance whose user ``app`` has every right that its server can give."""

    def __init__(self, settings: Settings) -> None:
        self.servers = open_servers(settings)
        self.spec = instance_spec()
        self.result = self.servers.create(self.spec, 1)
        promote(self.servers, self.spec.id, "app")

    def run(self, statement: str) -> list[tuple[Any, ...]]:
        """As that user."""
        return query(self.result, statement)

    def replicate_from(self, host: str, port: int) -> str:
        """What the server says of a source that it is told to replicate from."""
        self.run(f"CHANGE MASTER TO MASTER_HOST='{host}', MASTER_PORT={port}, MASTER_USER='u', MASTER_CONNECT_RETRY=1")
        self.run("START SLAVE IO_THREAD")
        with closing(connect(self.result)) as connection, connection.cursor(pymysql.cursors.DictCursor) as cursor:

            def error() -> str:
                cursor.execute("SHOW SLAVE STATUS")
                return str((cursor.fetchone() or {}).get("Last_IO_Error", ""))

            wait_for(error, "what the server says of its source")
            said = error()
        self.run("STOP SLAVE")
        self.run("RESET SLAVE ALL")
        return said


@pytest.fixture(scope="module")
def promoted(lasting_state_dir: Path, instance_network: str) -> Promoted:
    """One for all."""
    return Promoted(Settings(state_dir=lasting_state_dir, instance_networks=[instance_network]))


@pytest.mark.engine
def test_a_server_runs_without_rights(promoted: Promoted) -> None:
    """A server has no capability and can gain none, whoever started it."""
    (pid,) = processes_naming(promoted.servers.access(promoted.spec.id).data_directory)
    facts = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    wanted = {"CapPrm", "CapEff", "CapAmb", "CapInh", *(["CapBnd"] if AS_ROOT else [])}
    assert {name: int(facts[name], 16) for name in wanted} == dict.fromkeys(wanted, 0)
    assert facts["NoNewPrivs"].strip() == "1"


@pytest.mark.engine
@NEEDS_FILES
def test_a_server_writes_nothing_where_all_may(promoted: Promoted) -> None:
    """A promoted root's logs go to its own directories only: not to /tmp, nor to anybody's world-writable directory."""
    with tempfile.TemporaryDirectory(prefix="snaphold-open-") as directory:
        Path(directory).chmod(0o777)
        for target in (Path(directory, "planted"), Path(tempfile.gettempdir(), f"planted-{os.getpid()}")):
            for log in ("general_log", "slow_query_log"):
                with suppress(pymysql.err.MySQLError):  # it may say that it could, and log nothing
                    promoted.run(f"SET GLOBAL {log}_file = '{target}'")
                    promoted.run(f"SET GLOBAL {log} = 1")
                promoted.run(f"SET GLOBAL {log} = 0")
                promoted.run(f"SET GLOBAL {log}_file = DEFAULT")
            assert not target.exists()


@pytest.mark.engine
@NEEDS_FILES
def test_a_server_cannot_write_the_hosts_files(promoted: Promoted) -> None:
    """The host's own files of the instance stay as they are, also where the server runs as the host's user."""
    directory = promoted.servers.access(promoted.spec.id).data_directory.parent
    before = {path: path.read_bytes() for path in directory.glob("*.*") if path.is_file()}
    for path in before:
        with suppress(pymysql.err.MySQLError):
            promoted.run(f"SET GLOBAL general_log_file = '{path}'")
            promoted.run("SET GLOBAL general_log = 1")
        promoted.run("SET GLOBAL general_log = 0")
    promoted.run("SET GLOBAL general_log_file = DEFAULT")
    assert {path: path.read_bytes() for path in before} == before
    promoted.servers.restart(promoted.spec.id)
    assert promoted.run("SELECT 1") == [(1,)]


@pytest.mark.engine
@NEEDS_CONNECTIONS
def test_a_server_connects_to_servers_only(promoted: Promoted) -> None:
    """A promoted root's replication reaches port 3306 and no other: no service of the host, nor one behind it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        said = promoted.replicate_from("127.0.0.1", listener.getsockname()[1])
        assert '(13 "Permission denied")' in said
        listener.settimeout(0)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert "Access denied" in promoted.replicate_from(promoted.result.address, promoted.result.port)
