"""``kill -9`` of ``snaphold catalog rebuild``, ``state backup`` and ``state restore`` at each of their steps.

Run again, each ends as one undisturbed run does. No database server is needed for that: what they read and write are
the store and the databases of the state directory.
"""

import fcntl
import gzip
import json
import os
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from snaphold.steps import Step
from snaphold.store.local import LocalStores
from snaphold.wiring.state_directory import StateDirectory
from tests.faults.place import steps_of
from tests.scenarios.served import snaphold
from tests.support.manifests import a_backup_record, put_backup
from tests.support.pauses import Pauses
from tests.support.region import ACCOUNT

RESTORE_STEPS: Final = (
    Step.STATE_ACCOUNTS_RESTORED,
    Step.STATE_RESTORED,
    *steps_of("rebuild"),
)


class Site:
    """A state directory that was in use: an account, a host, and three backups in the store and in the catalog."""

    def __init__(self, directory: Path) -> None:
        self.state_dir = directory / "state"
        self.store = self.state_dir / "regions" / "DFW" / "store"
        self.pauses = Pauses(directory / "pauses")

    def fill(self) -> None:
        """Use it."""
        self.store.mkdir(parents=True)
        self.run("host", "add", "host")
        self.run("account", "add", ACCOUNT, "--user", "demo", "--password", "secret")
        store = LocalStores(self.store).of(ACCOUNT)
        full = put_backup(store, a_backup_record(2), self.deployment)
        put_backup(store, a_backup_record(1, full), self.deployment, full)
        put_backup(store, a_backup_record(3), self.deployment)
        self.run("catalog", "rebuild")
        self.run("catalog", "rebuild", "--done")

    @property
    def deployment(self) -> str:
        """The id of the service that this is."""
        with closing(sqlite3.connect(self.catalog)) as catalog:
            return str(catalog.execute("SELECT id FROM deployment").fetchone()[0])

    @property
    def catalog(self) -> Path:
        """The region's record."""
        return self.state_dir / "regions" / "DFW" / "catalog.db"

    def words(self, words: Sequence[str]) -> list[str]:
        """A command on this state directory."""
        return snaphold(*words, "--state-dir", self.state_dir)

    def run(self, *words: str) -> None:
        """A command, undisturbed."""
        subprocess.run(self.words(words), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60)

    def status_of(self, *words: str) -> int:
        """The exit status of a command that may fail."""
        done = subprocess.run(
            self.words(words), check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60
        )
        return done.returncode

    def killed(self, step: Step, *words: str) -> None:
        """The same, killed at a step."""
        self.pauses.at(step)
        command = subprocess.Popen(
            self.words(words),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=self.pauses.environment,
        )
        os.kill(self.pauses.reached(), signal.SIGKILL)
        assert command.wait(20) == -signal.SIGKILL
        self.pauses.over()

    def recorded(self) -> dict[str, list[Any]]:
        """What is in the catalog, but for when the sweep was held and when lost things were noted."""
        with closing(sqlite3.connect(self.catalog)) as catalog:
            found: dict[str, list[Any]] = {
                "backups": catalog.execute("SELECT * FROM backups ORDER BY id").fetchall(),
                "instances": catalog.execute("SELECT id, account, host_id, status FROM instances").fetchall(),
                "hosts": catalog.execute("SELECT id, name, token_sha256 FROM hosts").fetchall(),
                "deployment": catalog.execute("SELECT id, region FROM deployment").fetchall(),
            }
        with closing(sqlite3.connect(self.state_dir / "identity.db")) as identity:
            found["users"] = identity.execute("SELECT name, account, password_hash FROM users").fetchall()
            found["keys"] = identity.execute("SELECT id, user, sha256 FROM api_keys").fetchall()
        return found

    def sweep_is_held(self) -> bool:
        """Whether nothing is swept."""
        with closing(sqlite3.connect(self.catalog)) as catalog:
            return catalog.execute("SELECT sweep_held_us FROM deployment").fetchone()[0] is not None

    def states(self) -> list[Path]:
        """What is saved, and whatever else lies there."""
        return sorted(path for path in (self.store / "snaphold-service").rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state directory that was in use."""
    site = Site(tmp_path_factory.mktemp("used"))
    site.fill()
    return site.state_dir


@pytest.fixture
def site(used: Path, tmp_path: Path) -> Site:
    """The same, for one test."""
    shutil.copytree(used, tmp_path / "state")
    return Site(tmp_path)


@pytest.mark.parametrize("step", steps_of("rebuild"))
def test_a_rebuild_is_killed(site: Site, step: Step) -> None:
    """The records are those that were there, and the sweep is held from the first step on."""
    before = site.recorded()
    assert len(before["backups"]) == 3
    with closing(sqlite3.connect(site.catalog)) as catalog, catalog:
        catalog.execute("DELETE FROM backups")
    site.killed(step, "catalog", "rebuild")
    assert site.sweep_is_held()
    site.run("catalog", "rebuild")
    assert site.recorded() == before


@pytest.mark.parametrize("step", [Step.STATE_READ, Step.STATE_SAVED, Step.STATE_PRUNED])
def test_a_save_is_killed(site: Site, step: Step) -> None:
    """One whole state is kept, as was said, and nothing half made lies beside it."""
    site.run("state", "backup", "--state-backups-kept=1")
    site.killed(step, "state", "backup", "--state-backups-kept=1")
    site.run("state", "backup", "--state-backups-kept=1")
    (saved,) = site.states()
    assert json.loads(gzip.decompress(saved.read_bytes()))["deployment"] == site.deployment


@pytest.mark.parametrize("step", RESTORE_STEPS)
def test_a_restore_of_the_state_is_killed(site: Site, step: Step) -> None:
    """Everything is in the catalog as it was."""
    before = site.recorded()
    site.run("state", "backup")
    for path in (site.catalog, site.state_dir / "identity.db"):
        for each in path.parent.glob(f"{path.name}*"):
            each.unlink()
    site.killed(step, "state", "restore", "--region", "DFW")
    site.run("state", "restore", "--region", "DFW")
    assert site.recorded() == before
    assert site.sweep_is_held()


def test_a_catalog_that_lost_its_own_id(site: Site) -> None:
    """Without a saved state a new catalog takes the old backups for another's, until a person says whose they are."""
    before, deployment = site.recorded(), site.deployment
    for each in site.catalog.parent.glob("catalog.db*"):
        each.unlink()
    assert site.status_of("catalog", "rebuild") == 1
    assert site.recorded()["backups"] == []
    site.run("catalog", "rebuild", "--deployment", deployment)
    after = site.recorded()
    assert (after["backups"], after["deployment"]) == (before["backups"], before["deployment"])


def test_the_state_directory_itself_is_left(site: Site) -> None:
    """With nothing but the store in its place, everything is in the catalog as it was."""
    before = site.recorded()
    site.run("state", "backup")
    kept = site.state_dir.with_name("kept")
    site.store.rename(kept)
    shutil.rmtree(site.state_dir)
    site.store.parent.mkdir(parents=True)
    kept.rename(site.store)
    site.run("state", "restore")
    assert site.recorded() == before


def test_two_regions_are_lost(site: Site) -> None:
    """Each region's record comes back from its own store, and of the accounts what the newest of them knows."""
    (site.state_dir / "regions" / "IAD").mkdir()
    site.run("host", "add", "host", "--region", "IAD")
    site.run("state", "backup")
    site.run("account", "add", "5678", "--user", "late", "--password", "secret")
    site.run("state", "backup", "--region", "IAD")
    before = site.recorded()
    for path in [*site.state_dir.glob("regions/*/catalog.db*"), *site.state_dir.glob("identity.db*")]:
        path.unlink()
    site.run("state", "restore")
    assert site.recorded() == before
    with closing(sqlite3.connect(site.state_dir / "regions" / "IAD" / "catalog.db")) as catalog:
        assert catalog.execute("SELECT name FROM hosts").fetchall() == [("host",)]


@contextmanager
def worker_of(state: StateDirectory) -> Iterator[None]:
    """What the region's worker holds."""
    with state.worker_lock("DFW").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_nothing_is_restored_under_a_service(site: Site) -> None:
    """While any part of the service runs neither its state nor its id changes; the command says so in one line."""
    site.run("state", "backup")
    state = StateDirectory(site.state_dir)
    before = site.recorded()
    for words in (["state", "restore"], ["catalog", "rebuild", "--deployment", "another"]):
        for held in (state.lock("serve"), state.answering("DFW"), worker_of(state)):
            with held:
                ended = subprocess.run(site.words(words), capture_output=True, text=True, timeout=60, check=False)
            assert ended.returncode == 1
            assert ended.stderr.startswith("snaphold: ")
            assert len(ended.stderr.splitlines()) == 1
    assert site.recorded() == before


def test_damage_is_told_by_the_exit_status(site: Site) -> None:
    """A backup of ours that is not whole is named, with its reason, and the command ends with 1."""
    with closing(sqlite3.connect(site.catalog)) as catalog, catalog:
        catalog.execute("DELETE FROM backups")
    lost = a_backup_record(3)
    LocalStores(site.store).of(ACCOUNT).delete(str(lost.object_name))
    ended = subprocess.run(site.words(["catalog", "rebuild"]), capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    told = json.loads(ended.stdout)
    reason = f"the store has no object {lost.object_name}"
    expected = {"account": ACCOUNT, "object": f"{lost.id}.json", "reason": reason, "damaged": True}
    assert told["not_made"] == [expected]
    assert len(told["made"]) == 2
