import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Final

import pytest

from tests.scenarios.served import alive, eventually, free_port, kill, query, served, snaphold

pytestmark = pytest.mark.engine
OURS: Final = "\0-m\0snaphold\0"  # on the command line of each process of ours


def refused(*words: str | Path) -> str:
    """Why ``snaphold serve`` does not start: one line on standard error, beside the log's."""
    ended = subprocess.run(snaphold("serve", *words), capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1, ended.stderr
    said = [line for line in ended.stderr.splitlines() if not line.startswith("timestamp=")]
    assert len(said) == 1, ended.stderr
    return said[0]


def test_a_second_serve_on_one_directory(state_dir: Path, instance_network: str) -> None:
    """One service works on a state directory; the second says so in one line and disturbs nothing."""
    with served(state_dir, instance_network) as service:
        said = refused("--state-dir", state_dir, f"--region=DFW=127.0.0.1:{free_port()}")
        assert f"another `snaphold serve` is running on {state_dir}" in said
        assert service.ok("GET", "/instances") == {"instances": []}


def test_a_port_in_use(state_dir: Path) -> None:
    """A port that somebody listens on is named."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        said = refused("--state-dir", state_dir, f"--region=DFW=127.0.0.1:{port}")
    assert f"cannot listen on 127.0.0.1:{port}" in said


def test_a_missing_engine(state_dir: Path, tmp_path: Path) -> None:
    """Without a MariaDB nothing is started."""
    said = refused(
        "--state-dir", state_dir, f"--region=DFW=127.0.0.1:{free_port()}", "--engine-dir", tmp_path / "nowhere"
    )
    assert "there is no mariadbd under" in said


def test_a_catalog_that_is_no_database(state_dir: Path) -> None:
    """A broken state directory is one clear line, and stays as it is."""
    catalog = state_dir / "regions" / "DFW" / "catalog.db"
    catalog.parent.mkdir(parents=True)
    catalog.write_bytes(b"not a database at all" * 100)
    said = refused("--state-dir", state_dir, f"--region=DFW=127.0.0.1:{free_port()}")
    assert str(catalog) in said
    assert catalog.read_bytes() == b"not a database at all" * 100


def test_sigterm_and_a_new_start(state_dir: Path, instance_network: str) -> None:
    """SIGTERM ends the service within seconds, with exit status 0; database servers go on and are found again."""
    with served(state_dir, instance_network) as service:
        instance = service.instance()
        server = service.process_of("mariadbd", instance["id"])
        begun = time.monotonic()
        assert service.end() == 0
        assert time.monotonic() - begun < 10
        assert service.processes(OURS) == []
        query(instance, "CREATE TABLE t (id INT)")
        service.start()
        assert service.reaches(f"/instances/{instance['id']}", "ACTIVE")["ip"] == instance["ip"]
        assert service.process_of("mariadbd", instance["id"]) == server
        service.backup(instance)


def test_stop_ends_the_database_servers_too(state_dir: Path, instance_network: str) -> None:
    """After ``snaphold stop`` nothing of the service runs; the next start brings the database servers back."""
    with served(state_dir, instance_network) as service:
        instance = service.instance()
        assert service.process is not None
        subprocess.run(snaphold("stop", "--state-dir", state_dir), check=True, stdout=subprocess.DEVNULL, timeout=60)
        assert service.process.wait(5) == 0
        assert service.processes() == []
        service.start()
        service.process_of("mariadbd", instance["id"])
        path = f"/instances/{instance['id']}/databases"
        eventually(lambda: service.call("GET", path).is_success, "the server to answer")


def test_a_killed_supervisor_takes_its_processes_along(state_dir: Path, instance_network: str) -> None:
    """``kill -9`` of the supervisor leaves no control process and no agent; a new start works at once."""
    with served(state_dir, instance_network) as service:
        instance = service.instance()
        assert len(service.processes(OURS)) == 3
        assert service.end(signal.SIGKILL) == -signal.SIGKILL
        eventually(lambda: not service.processes(OURS), "its processes to end", timeout_s=10)
        service.start()
        service.reaches(f"/instances/{instance['id']}", "ACTIVE")


@pytest.mark.parametrize("victim", ["api", "agent"])
def test_a_killed_process_comes_back(state_dir: Path, instance_network: str, victim: str) -> None:
    """``kill -9`` of a process of ours harms nobody: it is started again, and work goes on."""
    with served(state_dir, instance_network) as service:
        instance = service.instance()
        first = service.process_of(f"{OURS}{victim}")
        kill(first)
        eventually(lambda: not alive(first), "its end")
        second = service.process_of(f"{OURS}{victim}")
        assert second != first
        eventually(lambda: service.accepts_a_backup(instance), "a backup to be accepted")


def test_a_killed_database_server_is_started_again(state_dir: Path, instance_network: str) -> None:
    """A server that should run does: a crash of it lasts seconds."""
    with served(state_dir, instance_network) as service:
        instance = service.instance()
        query(instance, "CREATE TABLE t (id INT) ENGINE=InnoDB")
        first = service.process_of("mariadbd", instance["id"])
        kill(first)
        eventually(lambda: not alive(first), "its end")
        assert service.process_of("mariadbd", instance["id"]) != first
        eventually(lambda: service.call("GET", f"/instances/{instance['id']}/databases").is_success, "an answer")
        assert query(instance, "CHECKSUM TABLE t") == (("shop.t", 0),)


def test_databases_and_users_are_the_servers_own(state_dir: Path, instance_network: str) -> None:
    """What is added or deleted over the API is so in the server when the request is answered."""
    with served(state_dir, instance_network) as service:
        instance = service.instance()
        path = f"/instances/{instance['id']}"
        service.ok("POST", f"{path}/databases", {"databases": [{"name": "more"}]})
        assert [row["name"] for row in service.ok("GET", f"{path}/databases")["databases"]] == ["more", "shop"]
        service.ok("DELETE", f"{path}/databases/more")
        users = {"users": [{"name": "reader", "password": "pw2", "databases": [{"name": "shop"}]}]}
        service.ok("POST", f"{path}/users", users)
        assert [row["name"] for row in service.ok("GET", f"{path}/users")["users"]] == ["app", "reader"]
        service.ok("DELETE", f"{path}/users/reader")
        assert [row["name"] for row in service.ok("GET", f"{path}/users")["users"]] == ["app"]


def test_restart_and_delete(state_dir: Path, instance_network: str) -> None:
    """A restarted server is another process with the same data; of a deleted instance nothing is left on the host."""
    with served(state_dir, instance_network) as service:
        instance = service.instance()
        path = f"/instances/{instance['id']}"
        query(instance, "CREATE TABLE t (id INT)")
        first = service.process_of("mariadbd", instance["id"])
        service.ok("POST", f"{path}/action", {"restart": {}})
        service.reaches(path, "ACTIVE")
        assert service.process_of("mariadbd", instance["id"]) != first
        assert query(instance, "SHOW TABLES") == (("t",),)
        service.ok("DELETE", path)
        eventually(lambda: service.call("GET", path).status_code == 404, "the instance to be gone")
        assert service.processes("mariadbd") == []
        assert not (state_dir / "instances" / instance["id"]).exists()


def test_a_machine_without_setpriv(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without setpriv, which ties processes to the supervisor, nothing is started."""
    monkeypatch.setenv("PATH", str(state_dir))
    assert shutil.which("setpriv") is None
    assert "setpriv" in refused("--state-dir", state_dir, f"--region=DFW=127.0.0.1:{free_port()}")
