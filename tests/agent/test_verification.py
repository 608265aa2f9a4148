"""Proofs on a real host: throw-away servers that leave nothing behind, and backups that are read back when taken."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from snaphold.config import Settings
from snaphold.errors import Transient
from snaphold.formats.stored_backups import StoredBackups
from snaphold.formats.verification_record import VerificationRecord
from snaphold.host.servers import Servers
from snaphold.objects import verification_record_name
from snaphold.steps import Step
from tests.agent.conftest import Place, Running, running_agent
from tests.agent.test_agent import When, an_instance, begin_backup, ends
from tests.fakes.memory_store import Fault, MemoryStore, MemoryStores
from tests.support.instances import wait_for

pytestmark = pytest.mark.engine


GENERATED = """CREATE TABLE shop.generated (
    id INT PRIMARY KEY, a INT, b VARCHAR(9) AS (CONCAT('x', a)) VIRTUAL, c CHAR(20) AS (CONCAT('y', a)) STORED, f FLOAT,
    g GEOMETRY, z TIMESTAMP NULL, j BIT(9), KEY (b)) WITH SYSTEM VERSIONING"""
UNSOUND = (  # what was so in the source is no damage
    "CREATE TABLE shop.child (a INT NOT NULL, KEY (a)) ENGINE=MyISAM",
    "CREATE TABLE shop.merged (a INT NOT NULL, KEY (a)) ENGINE=MERGE UNION=(shop.child)",
    "DROP TABLE shop.child",
    "CREATE TABLE shop.discarded (a INT PRIMARY KEY)",
    "ALTER TABLE shop.discarded DISCARD TABLESPACE",
)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A host, its region, and a store that fails on request."""

    place: Place
    servers: Servers
    settings: Settings
    state_dir: Path
    store: MemoryStore

    def agent(self, **settings: float) -> AbstractContextManager[Running]:
        """An agent at work, with these settings."""
        return running_agent(self.place, self.servers, self.settings.model_copy(update=settings))

    def backup(self, instance: Any) -> Any:
        """A backup that has ended."""
        return ends(self.place, begin_backup(self.place, instance), "COMPLETED", "FAILED")

    def increment(self, body: Any) -> Any:
        """The backup that was asked for with this body, once it has ended."""
        made = self.place.site.ok("POST", "/backups", body)["backup"]
        return ends(self.place, f"/backups/{made['id']}", "COMPLETED", "FAILED")

    def show(self, backup: Any) -> Any:
        """The backup as it is now."""
        return self.place.site.ok("GET", f"/backups/{backup['id']}")["backup"]

    def verify(self, backup: Any) -> Any:
        """Ask for a verification by a restore; what it shows."""
        before = self.show(backup)["verification"]
        self.place.site.ok("POST", f"/backups/{backup['id']}/action", {"verify": {"level": "restore"}})
        wait_for(lambda: self.show(backup)["verification"] != before, "the proof", 60)
        return self.show(backup)["verification"]

    def verification_record(self, backup: Any) -> VerificationRecord:
        """What is kept."""
        return VerificationRecord.model_validate_json(self.store.objects[verification_record_name(backup["id"])])

    def check_nothing_left(self, instance: Any) -> None:
        """Only the instance is on the host."""
        root = self.state_dir / "instances"
        wait_for(lambda: [path.name for path in root.iterdir()] == [instance["id"]], "the rest to go")
        assert self.servers.ids() == [instance["id"]]

    def silent_reads(self, count: int) -> Fault:
        """The next reads fail."""
        made = self.store.calls["get"]
        return Fault("get", Transient("silent"), first=made + 1, last=made + count)


@pytest.fixture
def stage(place: Place, servers: Servers, host_settings: Settings, state_dir: Path) -> Stage:
    """Everything at hand."""
    stores = MemoryStores()
    place.stores = stores  # type: ignore[assignment] # any stores will do
    state = place.site.app.state
    state.context = replace(
        state.context, stored_backups=StoredBackups(stores)
    )  # what is reported is looked for there too
    return Stage(place=place, servers=servers, settings=host_settings, state_dir=state_dir, store=stores.of("1234"))


def test_a_backup_is_brought_up(stage: Stage) -> None:
    """Every table is sound, the verification record holds the checksums, and nothing is left on the host.

    A table that is not what the first verification found fails the backup, and is named; its status stays.
    """
    with stage.agent():
        instance = an_instance(stage.place)
        administer = stage.servers.access(instance["id"]).administer
        for statement in (
            "CREATE DATABASE `od``d`",
            "CREATE TABLE `od``d`.`ta ble` (id INT PRIMARY KEY, v TEXT, KEY (v(10))) ENGINE=InnoDB",
            "INSERT INTO `od``d`.`ta ble` SELECT seq, REPEAT('x', seq) FROM `od``d`.seq_1_to_200",
            "CREATE DATABASE shop",
            "CREATE TABLE shop.old (id INT PRIMARY KEY) ENGINE=MyISAM",
            "CREATE TABLE shop.crashsafe (id INT PRIMARY KEY) ENGINE=Aria",
            "CREATE SEQUENCE shop.numbers",
            "CREATE VIEW shop.broken AS SELECT id FROM shop.old",
            "DROP TABLE shop.old",
            GENERATED,
            "INSERT INTO shop.generated (id, a, f, z) SELECT seq, seq, seq / 3, NOW() FROM shop.seq_1_to_50",
            "UPDATE shop.generated SET a = 7, j = 5, g = POINT(1, 2) WHERE id > 40",
            *UNSOUND,
        ):
            administer(statement, 10)
        ((_, checksum),) = administer("CHECKSUM TABLE `od``d`.`ta ble`", 10)
        backup = stage.backup(instance)
        assert (backup["verification"]["status"], backup["verification"]["level"]) == ("passed", "objects")
        assert stage.verification_record(backup).checksums is None

        verification = stage.verify(backup)
        assert (verification["status"], verification["level"]) == ("passed", "restore"), verification
        found = stage.verification_record(backup).checksums
        assert found is not None
        assert found.server_version.startswith("10.11.")
        assert found.tables["od`d.ta ble"] == checksum
        assert "shop.crashsafe" in found.tables
        assert [*found.rows] == ["shop.generated"]
        assert found.rows["shop.generated"].startswith("60 ")
        assert sorted(found.unsound) == ["shop.discarded", "shop.merged"]
        assert "shop.discarded (Tablespace has been discarded" in verification["reason"]
        stage.check_nothing_left(instance)

        again = stage.verify(backup)
        assert (again["status"], stage.verification_record(backup).checksums) == ("passed", found), again

        changed = found.model_copy(update={"tables": {**found.tables, "od`d.ta ble": 1}})
        kept = stage.verification_record(backup).model_copy(update={"checksums": changed})
        stage.store.replace(verification_record_name(backup["id"]), kept.dump())
        verification = stage.verify(backup)
        assert verification["status"] == "failed"
        assert f"od`d.ta ble of backup {backup['id']}" in verification["reason"]
        assert f"CHECKSUM TABLE gives {checksum} instead of 1" in verification["reason"]
        assert stage.verification_record(backup).checksums == changed
        assert stage.show(backup)["status"] == "COMPLETED"
        stage.check_nothing_left(instance)


def test_an_increment_is_brought_up_with_all_it_stands_on(stage: Stage) -> None:
    """Each level verifies the whole chain and names the damaged ancestor; no increment is taken on a damaged parent."""
    with stage.agent():
        instance = an_instance(stage.place)
        administer = stage.servers.access(instance["id"]).administer
        administer("CREATE DATABASE shop", 10)
        administer("CREATE TABLE shop.t (id INT PRIMARY KEY, v TEXT) ENGINE=InnoDB", 10)
        administer("INSERT INTO shop.t SELECT seq, REPEAT('x', 100) FROM shop.seq_1_to_1000", 10)
        full = stage.backup(instance)
        administer("UPDATE shop.t SET v = 'y' WHERE id % 7 = 0", 10)
        ((_, checksum),) = administer("CHECKSUM TABLE shop.t", 10)
        body = {"backup": {"name": "i", "instance": instance["id"], "parent_id": full["id"]}}
        child = stage.increment(body)
        assert (child["status"], child["verification"]["status"]) == ("COMPLETED", "passed")
        whole = stage.store.objects[f"{full['id']}.xbstream.gz"]
        flip_a_byte(stage, full["id"])
        refused = stage.increment(body)
        assert refused["status"] == "FAILED"
        assert f'the backup "b" ({full["id"]}), which it depends on, is damaged' in refused["reason"]

        verification = stage.verify(child)
        assert verification["status"] == "failed"
        assert f'the backup "b" ({full["id"]}), which it depends on, is damaged' in verification["reason"]
        assert f"{full['id']}.xbstream.gz" in verification["reason"]
        stage.store.objects[f"{full['id']}.xbstream.gz"] = whole
        assert stage.verify(child)["status"] == "passed"
        found = stage.verification_record(child).checksums
        assert found is not None
        assert found.tables == {"shop.t": checksum}
        stage.check_nothing_left(instance)


@pytest.mark.parametrize("step", [Step.VERIFY_STAGED, Step.VERIFY_STARTED], ids=str)
def test_a_proof_that_is_overtaken(stage: Stage, when: When, step: Step) -> None:
    """The verification is unknown, the throw-away server is gone, and the host reports nothing."""
    with stage.agent():
        instance = an_instance(stage.place)
        backup = stage.backup(instance)
        when(step, stage.place.give_up)
        assert stage.verify(backup)["status"] == "unknown"
        stage.check_nothing_left(instance)


def test_an_agent_that_is_told_to_stop_while_it_proves(stage: Stage, when: When) -> None:
    """The throw-away server ends with the agent, and the verification is unknown."""
    with stage.agent() as agent:
        instance = an_instance(stage.place)
        backup = stage.backup(instance)
        when(Step.VERIFY_STARTED, agent.stop)
        verification = stage.verify(backup)
    assert (verification["status"], verification["reason"]) == ("unknown", "The agent of its host was stopped.")
    stage.check_nothing_left(instance)


def test_a_new_backup_whose_store_falls_silent(stage: Stage, when: When) -> None:
    """It is asked again, and the backup is COMPLETED when it answers."""
    when(Step.BACKUP_MANIFEST_WRITTEN, lambda: stage.store.faults.append(stage.silent_reads(1)))
    with stage.agent(verify_wait_s=0.5):
        backup = stage.backup(an_instance(stage.place))
    assert (backup["status"], backup["verification"]["status"]) == ("COMPLETED", "passed")


def flip_a_byte(stage: Stage, backup_id: str = "") -> None:
    """Of the data, in the middle. ``backup_id``: needed when there are several backups."""
    (name,) = (name for name in stage.store.objects if name.endswith(f"{backup_id}.xbstream.gz"))
    content = bytearray(stage.store.objects[name])
    content[len(content) // 2] ^= 1
    stage.store.objects[name] = bytes(content)


def fall_silent(stage: Stage) -> None:
    """For good, to whoever reads."""
    stage.store.faults.append(stage.silent_reads(10**6))


@pytest.mark.parametrize(
    ("strike", "reason"),
    [(fall_silent, "could not be read back"), (flip_a_byte, ".xbstream.gz differs")],
    ids=["silent", "a flipped byte"],
)
def test_a_new_backup_that_cannot_be_read_back(
    stage: Stage, when: When, strike: Callable[[Stage], None], reason: str
) -> None:
    """FAILED with the reason, its manifest removed first, nothing left, and its instance free."""
    removing: list[set[str]] = []

    def look(method: str) -> None:
        if method == "delete":
            removing.append(set(stage.store.objects))

    when(Step.BACKUP_MANIFEST_WRITTEN, lambda: strike(stage))
    with stage.agent(verify_wait_s=0):
        instance = an_instance(stage.place)
        stage.store.on_call = look
        backup = stage.backup(instance)
        wait_for(lambda: not stage.store.objects, "the objects to go")
        ends(stage.place, f"/instances/{instance['id']}", "ACTIVE")
    assert backup["status"] == "FAILED"
    assert reason in backup["reason"]
    assert removing[0] - removing[1] == {f"{backup['id']}.json"}


def test_a_new_backup_that_is_brought_up(stage: Stage) -> None:
    """Where the operator asks for it a backup is COMPLETED only when its restore was tried out.

    The source is asked of what is not sound: what is so there too comes back as it was, and the verification names it.
    A later verification asks it too, and is unknown when nothing shows what the source's table was like.
    """
    state = stage.place.site.app.state
    wished = state.context.deployment.settings.model_copy(update={"verify_after_backup": "restore"})
    state.context = replace(state.context, deployment=replace(state.context.deployment, settings=wished))
    with stage.agent():
        instance = an_instance(stage.place)
        access = stage.servers.access(instance["id"])
        for statement in (
            "CREATE DATABASE shop",
            *UNSOUND,
            "CREATE TABLE shop.cut (id INT PRIMARY KEY, v CHAR(200)) ENGINE=MyISAM",
            "INSERT INTO shop.cut SELECT seq, 'x' FROM shop.seq_1_to_200",
            "FLUSH TABLES shop.cut",
        ):
            access.administer(statement, 10)
        os.truncate(access.data_directory / "shop" / "cut.MYD", 5000)
        backup = stage.backup(instance)
        assert (backup["verification"]["status"], backup["verification"]["level"]) == ("passed", "restore"), backup
        assert "shop.cut (Size of datafile is" in backup["verification"]["reason"]
        found = stage.verification_record(backup).checksums
        assert found is not None
        assert sorted(found.unsound) == ["shop.cut", "shop.discarded", "shop.merged"]
        assert stage.verify(backup)["status"] == "passed"
        stage.store.delete(verification_record_name(backup["id"]))
        verification = stage.verify(backup)  # the source is asked again
        assert verification["status"] == "passed", verification
        assert "shop.cut (Size of datafile is" in verification["reason"]
        access.administer("REPAIR TABLE shop.cut", 10)
        assert stage.verify(backup)["status"] == "passed"  # it is on record that the source's table was cut
        stage.store.delete(verification_record_name(backup["id"]))
        verification = stage.verify(backup)  # nobody knows any more; yet every byte is as it was written
        assert verification["status"] == "unknown"
        assert "the restored table shop.cut is not sound: Size of datafile" in verification["reason"]
        assert "whether the table was so in the source" in verification["reason"]
        stage.check_nothing_left(instance)
