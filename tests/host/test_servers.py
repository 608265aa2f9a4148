"""Database servers on one host, on the real engine."""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pymysql
import pytest

from snaphold.config import Settings
from snaphold.disk import Owner, copy_data
from snaphold.engines.base import Engines
from snaphold.engines.files import ServerFiles
from snaphold.engines.mariadb.engine import MariaDB
from snaphold.engines.mariadb.installation import Installation
from snaphold.engines.mariadb.template import template_directory
from snaphold.errors import NotFound, Permanent, SetupError, Superseded, in_full
from snaphold.host.servers import Servers
from snaphold.protocol import InstanceState
from tests.conftest import processes_naming
from tests.support.instances import connect, instance_spec, query, wait_for
from tests.support.servers import installation_of, open_servers

pytestmark = pytest.mark.engine

CREATE = """
import sys
from pathlib import Path
from snaphold.config import Settings
from snaphold.engines.installed import installed_engines
from snaphold.host.servers import Servers
from snaphold.protocol import InstanceSpec
settings = Settings(state_dir=Path(sys.argv[1]), instance_networks=[sys.argv[2]])
Servers(settings, installed_engines(settings)).create(InstanceSpec.model_validate_json(sys.argv[3]), 1)
"""


@pytest.fixture
def servers(host_settings: Settings) -> Servers:
    """A host without instances."""
    return open_servers(host_settings)


def test_an_instance_lives_from_create_to_delete(servers: Servers, state_dir: Path) -> None:
    """A created instance answers its user on its own address and port 3306, survives a restart, and deletes whole."""
    spec = instance_spec()
    result = servers.create(spec, 1)
    assert result.port == 3306
    assert result.full_version == installation_of(servers).version
    query(result, "CREATE TABLE shop.t (id INT PRIMARY KEY) ENGINE=InnoDB")
    query(result, "INSERT INTO shop.t VALUES (7)")

    servers.restart(spec.id)

    assert query(result, "SELECT id FROM shop.t") == [(7,)]
    assert query(result, "SELECT @@hostname IS NULL, @@port") == [(0, 3306)]
    assert servers.ids() == [spec.id]
    servers.delete(spec.id)
    servers.delete(spec.id)
    assert servers.ids() == []
    assert list((state_dir / "instances").iterdir()) == []
    assert processes_naming(state_dir) == []


def test_a_user_has_every_right_on_its_databases_and_none_beside(servers: Servers) -> None:
    """An instance's user owns its databases, sees no other, and has no FILE, SUPER, PROCESS or GRANT."""
    spec = instance_spec(databases=("shop", "other"), users=[])
    spec = spec.model_copy(update={"users": instance_spec().users})
    result = servers.create(spec, 1)

    grants = [row[0] for row in query(result, "SHOW GRANTS")]

    assert [grant.split(" IDENTIFIED")[0] for grant in grants] == [
        "GRANT USAGE ON *.* TO `app`@`%`",
        "GRANT ALL PRIVILEGES ON `shop`.* TO `app`@`%`",
    ]
    with pytest.raises(pymysql.err.OperationalError, match="command denied"):
        query(result, "CREATE TABLE other.t (id INT)")


def test_the_internal_accounts_are_closed_to_the_network(servers: Servers, state_dir: Path) -> None:
    """Their passwords, were they known, open nothing over TCP, and they stand in no argument and no log."""
    spec = instance_spec()
    result = servers.create(spec, 1)
    directory = state_dir / "instances" / spec.id
    for name, user in (("admin.cnf", "snaphold_admin"), ("backup.cnf", "snaphold_backup")):
        text = (directory / name).read_text()
        password = text.split('password="')[1].split('"')[0]
        facts = (directory / name).stat()
        assert facts.st_uid == os.geteuid()
        assert facts.st_mode & 0o777 == (0o640 if name == "backup.cnf" and os.geteuid() == 0 else 0o600)
        with pytest.raises(pymysql.err.OperationalError, match="Access denied"):
            connect(result, user, password)
        for process in processes_naming(state_dir):
            assert password.encode() not in Path(f"/proc/{process}/cmdline").read_bytes()
        assert password not in (directory / "log" / "error.log").read_text()
    assert not (directory / "init.sql").exists()


def test_a_killed_server_is_started_again(servers: Servers) -> None:
    """After kill -9 of mariadbd the host says that it does not run, and ``start`` brings back what was committed."""
    spec = instance_spec()
    result = servers.create(spec, 1)
    query(result, "CREATE TABLE shop.t (id INT PRIMARY KEY) ENGINE=InnoDB")
    query(result, "INSERT INTO shop.t VALUES (1)")
    (process,) = processes_naming(servers.access(spec.id).data_directory)
    os.kill(process, signal.SIGKILL)
    wait_for(lambda: not servers.running(spec.id), "the server's end")
    assert servers.state(spec.id).running is False

    servers.start(spec.id)

    assert servers.state(spec.id).running is True
    assert query(result, "SELECT id FROM shop.t") == [(1,)]


def test_servers_outlive_the_host_process_and_are_found_again(
    host_settings: Settings, state_dir: Path, instance_network: str
) -> None:
    """A server goes on when the process that started it ends, and the next one takes it as its own, not a second."""
    spec = instance_spec()
    argv = [sys.executable, "-c", CREATE, str(state_dir), instance_network, spec.model_dump_json()]
    subprocess.run(argv, check=True, timeout=120)
    before = processes_naming(state_dir)

    servers = open_servers(host_settings)
    servers.clear_leftovers()
    servers.start(spec.id)

    assert processes_naming(state_dir) == before
    assert len(before) == 1
    servers.restart(spec.id)
    assert len(processes_naming(state_dir)) == 1
    assert processes_naming(state_dir) != before


@pytest.mark.parametrize("sign_of_progress", ["instances/*/instance.json", "instances/*/data/ibdata1", "process"])
def test_a_create_that_was_killed_leaves_nothing(
    empty_state_dir: Path, instance_network: str, sign_of_progress: str
) -> None:
    """Kill -9 of the host's process while it builds: the next one removes directory and server, and can build anew."""
    spec = instance_spec()
    argv = [sys.executable, "-c", CREATE, str(empty_state_dir), instance_network, spec.model_dump_json()]
    with subprocess.Popen(argv) as creator:
        if sign_of_progress == "process":
            data = empty_state_dir / "instances" / spec.id / "data"
            wait_for(lambda: processes_naming(data), "the server's process")
        else:
            wait_for(lambda: list(empty_state_dir.glob(sign_of_progress)), sign_of_progress)
        creator.kill()

    servers = open_servers(Settings(state_dir=empty_state_dir, instance_networks=[instance_network]))
    servers.clear_leftovers()

    assert list((empty_state_dir / "instances").iterdir()) == []
    # The program that makes the template dies with its parent, but a moment after it.
    wait_for(lambda: not processes_naming(empty_state_dir), "every process to end")
    assert query(servers.create(spec, 2), "SELECT 1") == [(1,)]


def test_no_second_server_on_one_data_directory(servers: Servers, host_settings: Settings, state_dir: Path) -> None:
    """However many ask for a start at once, one server runs; two host objects see the same one."""
    spec = instance_spec()
    servers.create(spec, 1)
    servers.stop(spec.id)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: servers.start(spec.id), range(4)))
    open_servers(host_settings).start(spec.id)
    assert len(processes_naming(state_dir)) == 1


def test_instances_created_at_once_share_one_template_and_nothing_else(
    empty_state_dir: Path, instance_network: str
) -> None:
    """The template is made once; addresses, system users and incarnations differ."""
    servers = open_servers(Settings(state_dir=empty_state_dir, instance_networks=[instance_network]))
    specs = [instance_spec() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda spec: servers.create(spec, 1), specs))
    assert sorted(path.name for path in (empty_state_dir / "template").iterdir()) == [
        installation_of(servers).version,
        "lock",
    ]
    assert len({result.address for result in results}) == 4
    assert len({servers.incarnation(spec.id) for spec in specs}) == 4
    if servers.own_system_users:
        assert len({servers.access(spec.id).uid for spec in specs}) == 4


def test_the_template_is_made_once(engine: Installation, empty_state_dir: Path) -> None:
    """All who ask at the same time get the very same directory, and a crashed attempt's leftover is removed."""
    (empty_state_dir / "template").mkdir()
    (empty_state_dir / "template" / "tmp.crashed").mkdir()
    barrier = threading.Barrier(4)

    def ask(_: int) -> int:
        barrier.wait()
        return template_directory(empty_state_dir, engine).stat().st_ino

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(ask, range(4)))) == 1
    assert not (empty_state_dir / "template" / "tmp.crashed").exists()


def test_only_the_current_attempt_may_build(servers: Servers) -> None:
    """The attempt that built an instance gets its answer again; an earlier one is superseded and harms nothing."""
    spec = instance_spec()
    first = servers.create(spec, 2)

    assert servers.create(spec, 2).address == first.address
    with pytest.raises(Superseded):
        servers.create(spec, 1)
    with pytest.raises(Superseded):
        servers.staging(spec, 1)
    servers.discard_attempt(spec.id, 2)

    assert query(first, "SELECT 1") == [(1,)]


def test_an_attempt_that_was_given_up_leaves_nothing(servers: Servers, state_dir: Path) -> None:
    """The staging directory of a restore belongs to its attempt: a later one begins anew, ``discard`` removes it."""
    spec = instance_spec()
    first = servers.staging(spec, 1)
    (first.directory / "ibdata1").write_bytes(b"half")
    second = servers.staging(spec, 2)
    assert not first.directory.exists()
    assert list(second.directory.iterdir()) == []
    with pytest.raises(Superseded):
        servers.finish_restore(spec, 1)
    servers.discard_attempt(spec.id, 1)
    assert second.directory.is_dir()
    servers.discard_attempt(spec.id, 2)
    assert list((state_dir / "instances").iterdir()) == []


def test_a_create_that_fails_leaves_nothing(servers: Servers, state_dir: Path) -> None:
    """A request that the server refuses ends with its reason, without a directory or a process."""
    spec = instance_spec(users=[instance_spec().users[0].model_copy(update={"password_hash": "plain"})])
    with pytest.raises(Exception, match="not given as a hash"):
        servers.create(spec, 1)
    assert list((state_dir / "instances").iterdir()) == []
    assert processes_naming(state_dir) == []


def test_another_version_than_the_hosts_is_refused(servers: Servers) -> None:
    """A host builds only what it can really run."""
    with pytest.raises(Permanent, match=r"not mariadb 11\.8"):
        servers.create(instance_spec().model_copy(update={"version": "11.8"}), 1)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
@pytest.mark.parametrize("megabytes", [32, 64], ids=["no space for the data", "no space for the redo log"])
def test_a_full_disk_ends_a_create_with_that_reason(state_dir: Path, instance_network: str, megabytes: int) -> None:
    """No space: Permanent with that reason, and everything removed, so that the space is given back."""
    template = state_dir / "roomy"
    roomy = open_servers(Settings(state_dir=template, instance_networks=[instance_network]))
    template_directory(template, installation_of(roomy))
    small = state_dir / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "tmpfs", str(small)], check=True)
    try:
        shutil.copytree(template / "template", small / "template")
        servers = open_servers(Settings(state_dir=small, instance_networks=[instance_network]))
        with pytest.raises(Permanent, match="the disk of this host is full"):
            servers.create(instance_spec(), 1)
        assert list((small / "instances").iterdir()) == []
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_a_taken_address_means_the_next_one(host_settings: Settings) -> None:
    """An instance gets the address chosen for it, where nobody listens there; else the next; none free is said so."""
    chance = random.SystemRandom()
    start = f"127.{chance.randint(80, 126)}.{chance.randint(0, 255)}"
    network, chosen = f"{start}.8/30", f"{start}.10"
    servers = open_servers(host_settings.model_copy(update={"instance_networks": [network]}))
    results = []
    for _ in range(4):
        spec = instance_spec().model_copy(update={"address": chosen})
        results.append(servers.create(spec, 1))
        directory = servers.access(spec.id).data_directory.parent
        (directory / "instance.json").rename(directory / "hidden.json")

    assert results[0].address == chosen
    assert len({result.address for result in results}) == 4
    assert {result.address for result in results} <= set(servers.taken_addresses())
    with pytest.raises(Permanent, match="no address of its host is free"):
        servers.create(instance_spec(), 1)


def test_a_state_directory_may_lie_deep(state_dir: Path, instance_network: str) -> None:
    """A path too long for a socket's address (107 bytes) hinders nothing."""
    deep = state_dir / ("d" * 60) / ("e" * 60)
    servers = open_servers(Settings(state_dir=deep, instance_networks=[instance_network]))
    spec = instance_spec()
    result = servers.create(spec, 1)
    assert query(result, "SELECT 1") == [(1,)]
    assert servers.state(spec.id).running is True


@pytest.mark.skipif(os.geteuid() != 0, reason="without root all servers run as ourselves")
def test_a_closed_directory_above_is_named(state_dir: Path) -> None:
    """Servers of other system users must be able to pass: ours is opened, one above is named in one line."""
    closed = state_dir / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(SetupError, match=f"^{closed} is closed .*chmod o\\+x {closed}'$"):
        open_servers(Settings(state_dir=closed / "state"))
    ours = state_dir / "ours"
    ours.mkdir(mode=0o700)
    open_servers(Settings(state_dir=ours))
    assert ours.stat().st_mode & 0o777 == 0o701


def test_an_incarnation_is_one_life_of_the_data(servers: Servers) -> None:
    """A restart keeps it; files that were put back from elsewhere are another life, though the id came with them."""
    spec = instance_spec()
    servers.create(spec, 1)
    first = servers.incarnation(spec.id)
    servers.restart(spec.id)
    assert servers.incarnation(spec.id) == first

    servers.stop(spec.id)
    data = servers.access(spec.id).data_directory
    subprocess.run(["cp", "-a", str(data / "ibdata1"), str(data / "copy")], check=True)
    (data / "copy").rename(data / "ibdata1")
    servers.start(spec.id)

    assert servers.incarnation(spec.id) != first


class Delayed(MariaDB):
    """Hears the server's position late, once: when ``go_on`` is set."""

    def __init__(self, installation: Installation) -> None:
        super().__init__(installation)
        self.asked, self.go_on = threading.Event(), threading.Event()

    def lsns(self, files: ServerFiles, timeout_s: float) -> tuple[int, int]:
        """The position as it is when asked."""
        found = super().lsns(files, timeout_s)
        if not self.asked.is_set():
            self.asked.set()
            assert self.go_on.wait(30)
        return found


def test_a_look_that_was_overtaken_is_no_rollback(host_settings: Settings) -> None:
    """Each region of an agent looks by itself: a position that was asked for first and heard last is no lower one."""
    engine, spec = Delayed(installation_of(open_servers(host_settings))), instance_spec()
    servers = Servers(host_settings, Engines([engine]))
    engine.asked.set()
    result = servers.create(spec, 1)
    query(result, "CREATE TABLE shop.t (v LONGBLOB) ENGINE=InnoDB")
    first = servers.incarnation(spec.id)
    engine.asked.clear()
    with ThreadPoolExecutor(1) as pool:
        early = pool.submit(servers.state, spec.id)
        assert engine.asked.wait(30)
        query(result, "INSERT INTO shop.t VALUES (REPEAT('x', 20000))")
        late = servers.state(spec.id)
        engine.go_on.set()
    assert early.result().incarnation == first
    assert late.incarnation in {first, None}
    assert servers.incarnation(spec.id) == first


def test_data_that_was_rolled_back_in_place_is_another_life(servers: Servers) -> None:
    """Old contents in the same files, the id among them: the lower LSN tells. A crash of the server is no rollback."""
    spec = instance_spec()
    result = servers.create(spec, 1)
    query(result, "CREATE TABLE shop.t (v LONGBLOB) ENGINE=InnoDB")
    first = servers.incarnation(spec.id)
    servers.stop(spec.id)
    data = servers.access(spec.id).data_directory
    shutil.copytree(data, data.with_name("snapshot"))
    servers.start(spec.id)
    query(result, "INSERT INTO shop.t VALUES (REPEAT('x', 4000000))")
    seen = servers.state(spec.id)
    assert seen.incarnation == first
    (process,) = processes_naming(servers.access(spec.id).data_directory)
    os.kill(process, signal.SIGKILL)
    wait_for(lambda: not servers.running(spec.id), "the server's end")
    servers.start(spec.id)
    assert servers.incarnation(spec.id, max_lsn=seen.max_lsn) == first

    servers.stop(spec.id)
    for path in data.rglob("*"):
        old = data.with_name("snapshot") / path.relative_to(data)
        if path.is_file() and old.exists():
            shutil.copyfile(old, path)
        elif path.is_file():
            path.unlink()
    servers.start(spec.id)

    second = servers.state(spec.id).incarnation
    assert second is not None
    assert second != first
    assert servers.incarnation(spec.id) == second


def test_the_record_knows_of_a_rollback_that_took_our_notes_along(servers: Servers) -> None:
    """A life is over when the record was told a higher LSN, or says that it is; a backup's LSN counts as seen."""
    spec = instance_spec()
    servers.create(spec, 1)
    first, lsn = servers.incarnation(spec.id), servers.state(spec.id).max_lsn
    assert lsn is not None
    assert servers.incarnation(spec.id, max_lsn=lsn, ended="other") == first
    second = servers.incarnation(spec.id, max_lsn=lsn + (1 << 30))
    third = servers.incarnation(spec.id, max_lsn=lsn, ended=second)
    assert servers.incarnation(spec.id, ended=second) == third
    servers.saw_lsn(spec.id, second, lsn + (1 << 30))
    assert servers.incarnation(spec.id) == third
    servers.saw_lsn(spec.id, third, lsn + (1 << 30))
    assert len({first, second, third, servers.state(spec.id).incarnation}) == 4


def test_what_the_data_uses_is_measured(servers: Servers) -> None:
    """``used_bytes`` grows with the data, by about as much, and leaves out the redo log, which is as large as it is."""
    spec = instance_spec()
    result = servers.create(spec, 1)
    before = servers.state(spec.id)
    assert before.used_bytes is not None
    assert before.used_bytes < 30 << 20
    query(result, "CREATE TABLE shop.t (v LONGBLOB) ENGINE=InnoDB")
    for _ in range(5):
        query(result, "INSERT INTO shop.t VALUES (REPEAT('x', 4000000))")
    servers.access(spec.id).checkpoint(60)

    after = servers.state(spec.id)

    assert after.used_bytes is not None
    assert 16 << 20 < after.used_bytes - before.used_bytes < 64 << 20
    assert after.max_lsn is not None
    assert before.max_lsn is not None
    assert after.max_lsn > before.max_lsn


def test_an_unknown_instance_is_none(servers: Servers) -> None:
    """An id that is not here, or no id at all, is said to be missing; deleting it is no failure."""
    fault = "this host has no such instance"
    assert servers.state("nobody") == InstanceState(id="nobody", running=False, fault=fault)
    servers.delete("nobody")
    for call in (servers.start, servers.stop, servers.restart, servers.access, servers.incarnation, servers.result):
        with pytest.raises(NotFound):
            call("nobody")
    with pytest.raises(NotFound):
        servers.start("../../etc")


def test_a_server_that_cannot_start_says_why(servers: Servers) -> None:
    """A damaged data directory: Permanent, with what the server logged for the log and for nobody else."""
    spec = instance_spec()
    servers.create(spec, 1)
    servers.stop(spec.id)
    (servers.access(spec.id).data_directory / "ibdata1").write_bytes(b"")
    with pytest.raises(Permanent, match=r"does not start: .* \(it ended with status 1\)$") as failed:
        servers.start(spec.id)
    assert "InnoDB cannot open its files" in str(failed.value)
    assert "Plugin" not in str(failed.value)
    assert "Plugin" in in_full(failed.value)
    state = servers.state(spec.id)
    assert state.running is False
    assert (state.fault or "").startswith("its server does not run: ")


def test_a_stopped_server_waits_for_its_clients_only_so_long(servers: Servers, state_dir: Path) -> None:
    """A server that does not end by itself is killed after the patience it is given."""
    spec = instance_spec()
    result = servers.create(spec, 1)
    (process,) = processes_naming(state_dir)
    with closing(connect(result)):
        os.kill(process, signal.SIGSTOP)
        servers.stop(spec.id, patience_s=0.2)
    assert processes_naming(state_dir) == []


@pytest.mark.parametrize("after_a_kill", [False, True])
def test_a_server_that_is_tried_out(
    servers: Servers, host_settings: Settings, state_dir: Path, *, after_a_kill: bool
) -> None:
    """It answers through its socket only, is no instance, and nothing is left of it; not after a kill either."""
    spec = instance_spec()
    staging = servers.staging(spec, 1, kind="proof")
    owner = None if staging.uid is None else Owner(uid=staging.uid, gid=staging.uid)
    copy_data(template_directory(state_dir, installation_of(servers)), staging.directory, owner)
    administer = servers.start_scratch_server(spec, 1)
    assert administer("SELECT @@skip_networking, @@port", 5) == [(1, 0)]
    assert (servers.ids(), len(processes_naming(state_dir))) == ([], 1)
    if after_a_kill:
        open_servers(host_settings).clear_leftovers()
    else:
        servers.discard_attempt(spec.id, 1)
    assert processes_naming(state_dir) == []
    assert list((state_dir / "instances").iterdir()) == []


def test_no_certificate_is_read_to_get_into_a_server(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way through the socket needs no TLS, whose set-up takes tens of times longer than the rest of the way."""
    spec = instance_spec()
    servers.create(spec, 1)

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("TLS was set up")

    monkeypatch.setattr("ssl.create_default_context", fail)
    assert servers.access(spec.id).administer("SELECT 1", 5) == [(1,)]
