"""Walls between instances of one host: what one server's user can do to another server's files.

The users here have every right in their own server, FILE and SUPER among them, which no customer's user has: so it is
the system that must refuse, not the server's own rules.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pymysql
import pytest

from snaphold.config import Settings
from tests.conftest import processes_naming
from tests.support.instances import instance_spec, promote, query
from tests.support.servers import installation_of, open_servers

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(os.geteuid() != 0, reason="without root all servers share a system user"),
]


class PeerRegistry:
    """An instance that attacks, with an all-powerful user, and one that is attacked."""

    def __init__(self, settings: Settings) -> None:
        self.servers = open_servers(settings)
        self.attacker, self.victim = instance_spec(), instance_spec()
        self.result = self.servers.create(self.attacker, 1)
        self.target = self.servers.create(self.victim, 1)
        promote(self.servers, self.attacker.id, "app")
        query(self.target, "CREATE TABLE shop.secret (v VARCHAR(80)) ENGINE=MyISAM")
        query(self.target, "INSERT INTO shop.secret VALUES ('canary')")
        self.directory = self.servers.access(self.victim.id).data_directory.parent

    def run(self, statement: str) -> list[tuple[object, ...]]:
        """As the attacker's powerful user."""
        return query(self.result, statement)


@pytest.fixture
def neighbours(host_settings: Settings) -> Iterator[PeerRegistry]:
    """Two instances on one host."""
    neighbours = PeerRegistry(host_settings)
    yield neighbours
    for spec in (neighbours.attacker, neighbours.victim):
        neighbours.servers.delete(spec.id)


def _without_the_servers_own_rule(neighbours: PeerRegistry) -> None:
    """Start the attacker's server once more without secure_file_priv, so that only the system is in the way."""
    access = neighbours.servers.access(neighbours.attacker.id)
    (process,) = processes_naming(access.data_directory)
    argv = [
        word
        for word in Path(f"/proc/{process}/cmdline").read_text("utf-8").split("\0")
        if word and not word.startswith(("--secure-file-priv", "--skip-symbolic-links", "--init-file"))
    ]
    neighbours.servers.stop(neighbours.attacker.id)
    assert access.uid is not None
    subprocess.Popen(
        [*argv, "--symbolic-links=1"],
        user=access.uid,
        group=access.gid,
        extra_groups=[],
        env=dict(installation_of(neighbours.servers).environment),
        cwd=access.data_directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    neighbours.servers.start(neighbours.attacker.id)


@pytest.mark.parametrize("bare", [False, True], ids=["as we start it", "without secure_file_priv"])
def test_a_server_reads_no_file_of_another(neighbours: PeerRegistry, *, bare: bool) -> None:
    """LOAD DATA INFILE and LOAD_FILE reach neither a neighbour's data nor the host's own accounts."""
    if bare:
        _without_the_servers_own_rule(neighbours)
        assert neighbours.run("SELECT @@secure_file_priv") in ([(None,)], [("",)])
    neighbours.run("CREATE TABLE shop.loot (v TEXT)")
    own = neighbours.servers.access(neighbours.attacker.id).data_directory.parent
    for path in (
        neighbours.directory / "data" / "shop" / "secret.MYD",
        neighbours.directory / "backup.cnf",
        neighbours.directory / "instance.json",
        own / "admin.cnf",
        own / "instance.json",
    ):
        assert path.exists()
        with pytest.raises(pymysql.err.MySQLError, match=r"secure.file.priv|Errcode: 13|can't get stat|must be in"):
            neighbours.run(f"LOAD DATA INFILE '{path}' INTO TABLE shop.loot")
        assert neighbours.run(f"SELECT LOAD_FILE('{path}')") == [(None,)]
    assert neighbours.run("SELECT COUNT(*) FROM shop.loot") == [(0,)]


@pytest.mark.parametrize("bare", [False, True], ids=["as we start it", "without secure_file_priv"])
def test_a_server_writes_no_file_of_another(neighbours: PeerRegistry, *, bare: bool) -> None:
    """SELECT … INTO OUTFILE and the general log cannot put a file into a neighbour's directory, nor into our own."""
    if bare:
        _without_the_servers_own_rule(neighbours)
    own = neighbours.servers.access(neighbours.attacker.id).data_directory.parent
    before = _files(neighbours.directory)
    places = [neighbours.directory, neighbours.directory / "data", own, own / "files", own / "plugins"]
    for place in places:
        target = place / "planted"
        with pytest.raises(pymysql.err.MySQLError):
            neighbours.run(f"SELECT 1 INTO OUTFILE '{target}'")
        with suppress(pymysql.err.MySQLError):  # it may say that it could, and log nothing
            neighbours.run(f"SET GLOBAL general_log_file = '{target}'")
            neighbours.run("SET GLOBAL general_log = 1")
        assert not target.exists()
    assert _files(neighbours.directory) == before


def test_a_symbolic_link_leads_nowhere(neighbours: PeerRegistry) -> None:
    """A link in one data directory to another's table gives nothing, even to a server that follows links."""
    _without_the_servers_own_rule(neighbours)
    neighbours.run("CREATE TABLE shop.decoy (v VARCHAR(80)) ENGINE=MyISAM")
    neighbours.run("FLUSH TABLES")
    access = neighbours.servers.access(neighbours.attacker.id)
    decoy = access.data_directory / "shop" / "decoy.MYD"
    decoy.unlink()
    decoy.symlink_to(neighbours.directory / "data" / "shop" / "secret.MYD")
    with pytest.raises(pymysql.err.MySQLError):
        neighbours.run("SELECT * FROM shop.decoy")
    elsewhere = neighbours.directory / "data" / "shop"
    with pytest.raises(pymysql.err.MySQLError):
        neighbours.run(f"CREATE TABLE shop.elsewhere (v INT) ENGINE=MyISAM DATA DIRECTORY='{elsewhere}'")


def test_the_host_follows_no_link_that_a_server_laid(neighbours: PeerRegistry) -> None:
    """What the host reads in a server's own directories is never something else that a link points to."""
    own = neighbours.servers.access(neighbours.attacker.id).data_directory.parent
    neighbours.servers.stop(neighbours.attacker.id)
    log = own / "log" / "error.log"
    log.unlink()
    log.symlink_to(neighbours.directory / "backup.cnf")
    state = neighbours.servers.state(neighbours.attacker.id)
    assert "password" not in (state.fault or "")


def test_the_servers_have_system_users_of_their_own(neighbours: PeerRegistry) -> None:
    """Each data directory is closed to everybody but its own user, who has no name and no other group."""
    first = neighbours.servers.access(neighbours.attacker.id)
    second = neighbours.servers.access(neighbours.victim.id)
    assert first.uid != second.uid
    for access in (first, second):
        facts = access.data_directory.stat()
        assert (facts.st_uid, facts.st_gid, facts.st_mode & 0o777) == (access.uid, access.gid, 0o700)
        assert access.data_directory.parent.stat().st_mode & 0o777 == 0o710
    done = subprocess.run(
        ["ls", str(second.data_directory)],
        user=first.uid,
        group=first.gid,
        extra_groups=[],
        capture_output=True,
        check=False,
    )
    assert done.returncode != 0


def _files(directory: Path) -> set[str]:
    done = subprocess.run(["find", str(directory), "-name", "planted*"], capture_output=True, text=True, check=True)
    return set(done.stdout.split())
