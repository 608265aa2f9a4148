"""``kill -9`` at every named step of an agent's work: all converges within a minute, nothing is left."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from snaphold.steps import Step
from tests.faults.place import Place, opened_place, steps_of, struck, with_victims
from tests.scenarios.served import eventually, query

pytestmark = pytest.mark.engine

EVERYWHERE: Final = ("agent", "control", "supervisor")


@pytest.fixture(scope="module")
def place(lasting_state_dir: Path, instance_network: str, pytestconfig: pytest.Config) -> Iterator[Place]:
    """One service for all the kills: it must survive them all."""
    with opened_place(lasting_state_dir, instance_network, pytestconfig) as place:
        yield place


BACKUP_VICTIMS = with_victims("backup", (*EVERYWHERE, "server"), {Step.BACKUP_TOOL_STARTED: ["tool"]})
RESTORE_VICTIMS = with_victims(
    "restore", EVERYWHERE, {Step.RESTORE_FINISHED: ["server"], Step.RESTORE_REPORTED: ["server"]}
)
CONSOLIDATE_VICTIMS = with_victims("consolidate", EVERYWHERE, {})
VERIFY_VICTIMS = with_victims("verify", EVERYWHERE, {})
CREATE_VICTIMS = with_victims("create", EVERYWHERE, {Step.CREATE_BUILT: ["server"]})
RESTART_VICTIMS = with_victims(
    "restart", EVERYWHERE, {Step.RESTART_CLAIMED: ["server"], Step.RESTART_STARTED: ["server"]}
)
STOP_VICTIMS = with_victims("stop", EVERYWHERE, {Step.STOP_CLAIMED: ["server"]})
START_VICTIMS = with_victims("start", EVERYWHERE, {Step.START_STARTED: ["server"]})
RESIZE_VICTIMS = with_victims("resize", EVERYWHERE, {Step.RESIZE_CLAIMED: ["server"], Step.RESIZE_STARTED: ["server"]})
DELETE_VICTIMS = with_victims("delete", EVERYWHERE, {Step.DELETE_CLAIMED: ["server"]})


@pytest.mark.parametrize(("step", "victim"), struck(BACKUP_VICTIMS))
def test_a_backup_is_struck(place: Place, step: Step, victim: str) -> None:
    """A struck backup is COMPLETED and can be restored, or FAILED with a reason and nothing in the store.

    Whoever was not killed finishes its work: only the death of the agent, the tool or the server fails a backup.
    """
    place.pauses.at(step)
    wanted = {"backup": {"name": "b", "instance": place.source["id"]}}
    path = f"/backups/{place.service.ok('POST', '/backups', wanted)['backup']['id']}"
    place.strike(victim, place.source["id"])
    backup = place.ends(path, "COMPLETED", "FAILED")

    place.is_sound()
    if backup["status"] == "FAILED":
        assert backup["reason"]
        assert step is not Step.BACKUP_REPORTED
        assert victim != "control"
    else:
        restored = place.service.instance(restorePoint={"backupRef": backup["id"]})
        assert query(restored, "CHECKSUM TABLE t") == place.expected
        place.forget(f"/instances/{restored['id']}", path)


@pytest.mark.parametrize(("step", "victim"), struck(RESTORE_VICTIMS))
def test_a_restore_is_struck(place: Place, step: Step, victim: str) -> None:
    """A struck restore is ACTIVE with the data, or ERROR with a reason and nothing on the host."""
    place.pauses.at(step)
    wanted = {"name": "r", "flavorRef": 1, "volume": {"size": 1}, "restorePoint": {"backupRef": place.good["id"]}}
    made = place.service.ok("POST", "/instances", {"instance": wanted})["instance"]
    place.strike(victim, made["id"])
    instance = place.ends(f"/instances/{made['id']}", "ACTIVE", "ERROR")

    if instance["status"] == "ACTIVE":
        place.soon(lambda: place.answers(instance), "the instance to answer")
        assert query(instance, "CHECKSUM TABLE t") == place.expected
    else:
        assert instance["reason"]
        assert step is not Step.RESTORE_REPORTED
        assert victim in {"agent", "supervisor"}
    place.is_sound()
    place.forget(f"/instances/{made['id']}")


@pytest.mark.parametrize(("step", "victim"), struck(CREATE_VICTIMS))
def test_a_create_is_struck(place: Place, step: Step, victim: str) -> None:
    """A struck create is ACTIVE and answers, or ERROR with a reason and nothing on the host."""
    place.pauses.at(step)
    user = {"name": "app", "password": "pw1", "databases": [{"name": "shop"}]}
    wanted = {"name": "c", "flavorRef": 1, "volume": {"size": 1}, "databases": [{"name": "shop"}], "users": [user]}
    made = place.service.ok("POST", "/instances", {"instance": wanted})["instance"]
    place.strike(victim, made["id"])
    instance = place.ends(f"/instances/{made['id']}", "ACTIVE", "ERROR")

    if instance["status"] == "ACTIVE":
        place.soon(lambda: place.answers(instance), "the instance to answer")
    else:
        assert instance["reason"]
        assert victim in {"agent", "supervisor"}
    place.is_sound()
    place.forget(f"/instances/{made['id']}")


@pytest.mark.parametrize(("step", "victim"), struck(CONSOLIDATE_VICTIMS))
def test_a_consolidation_is_struck(place: Place, step: Step, victim: str) -> None:
    """A struck consolidation is COMPLETED, or FAILED with a reason and nothing in the store; the chain is whole."""
    wanted = {"name": "i", "instance": place.source["id"], "parent_id": place.good["id"]}
    path = f"/backups/{place.service.ok('POST', '/backups', {'backup': wanted})['backup']['id']}"
    assert place.service.reaches(path, "COMPLETED")
    place.pauses.at(step)
    made = place.service.ok("POST", f"{path}/action", {"consolidate": {}})["backup"]
    place.strike(victim, place.source["id"])
    backup = place.ends(f"/backups/{made['id']}", "COMPLETED", "FAILED")

    assert backup["status"] == "COMPLETED" or (backup["reason"] and victim in {"agent", "supervisor"})
    place.is_sound()
    place.forget(path)


@pytest.mark.parametrize(("step", "victim"), struck(VERIFY_VICTIMS))
def test_a_proof_by_a_restore_is_struck(place: Place, step: Step, victim: str) -> None:
    """A killed verification is passed or unknown; the backup stays COMPLETED and free, and the host is clean."""
    path = f"/backups/{place.good['id']}"
    before = place.service.ok("GET", path)["backup"]["verification"]
    place.pauses.at(step)
    place.service.ok("POST", f"{path}/action", {"verify": {"level": "restore"}})
    place.strike(victim, place.source["id"])

    def shown() -> Any:
        answer = place.answer(path)
        found = None if answer is None else answer.json()["backup"]["verification"]
        return found if found != before else None

    verification = place.soon(shown, "the proof")
    assert verification["level"] == "restore"
    assert verification["status"] == "passed" or (verification["reason"] and victim in {"agent", "supervisor"})
    assert place.ends(path, "COMPLETED")["status"] == "COMPLETED"
    place.is_sound()


@pytest.mark.parametrize(("step", "victim"), struck(RESTART_VICTIMS))
def test_a_restart_is_struck(place: Place, step: Step, victim: str) -> None:
    """A struck restart is taken up again: the server runs with its data."""
    place.pauses.at(step)
    place.service.ok("POST", f"/instances/{place.source['id']}/action", {"restart": {}})
    place.strike(victim, place.source["id"])

    place.is_sound()


@pytest.mark.parametrize(("step", "victim"), struck(STOP_VICTIMS))
def test_a_stop_is_struck(place: Place, step: Step, victim: str) -> None:
    """A struck stop is taken up again: there is no server, until it is started, with its data."""
    path = f"/instances/{place.source['id']}"
    place.pauses.at(step)
    place.service.ok("POST", f"{path}/action", {"stop": {}})
    place.strike(victim, place.source["id"])

    place.soon(lambda: place.accepts(f"{path}/action", {"start": {}}), "the instance to be startable")
    place.is_sound()


@pytest.mark.parametrize(("step", "victim"), struck(START_VICTIMS))
def test_a_start_is_struck(place: Place, step: Step, victim: str) -> None:
    """A struck start is taken up again: the server runs with its data."""
    path = f"/instances/{place.source['id']}/action"
    place.service.ok("POST", path, {"stop": {}})
    place.pauses.at(step)
    eventually(lambda: place.accepts(path, {"start": {}}), "the instance to be stopped")
    place.strike(victim, place.source["id"])

    place.is_sound()


@pytest.mark.parametrize(("step", "victim"), struck(RESIZE_VICTIMS))
def test_a_resize_is_struck(place: Place, step: Step, victim: str) -> None:
    """A struck resize is taken up again: the server runs with its data and the flavor that was asked for."""
    path = f"/instances/{place.source['id']}"
    flavor = 3 - int(place.service.ok("GET", path)["instance"]["flavor"]["id"])
    place.pauses.at(step)
    place.service.ok("POST", f"{path}/action", {"resize": {"flavorRef": flavor}})
    place.strike(victim, place.source["id"])

    assert place.ends(path, "ACTIVE")["flavor"]["id"] == str(flavor)
    place.is_sound()
    assert query(place.source, "SELECT @@innodb_buffer_pool_size") == ((flavor << 28,),)


@pytest.mark.parametrize(("step", "victim"), struck(DELETE_VICTIMS))
def test_a_delete_is_struck(place: Place, step: Step, victim: str) -> None:
    """A struck delete is taken up again: nothing is left."""
    instance = place.service.instance()
    path = f"/instances/{instance['id']}"
    place.pauses.at(step)
    place.service.ok("DELETE", path)
    place.strike(victim, instance["id"])

    assert place.ends(path) is None
    place.is_sound()


def test_every_step_of_an_agent_is_struck() -> None:
    """A step that somebody adds is struck as well, or named in another test."""
    here = {*BACKUP_VICTIMS, *RESTORE_VICTIMS, *CREATE_VICTIMS, *RESTART_VICTIMS, *DELETE_VICTIMS}
    here |= {*STOP_VICTIMS, *START_VICTIMS, *RESIZE_VICTIMS, *VERIFY_VICTIMS, *CONSOLIDATE_VICTIMS}
    elsewhere = ("control", "copy", "mend", "schedule", "proof", "removal", "rebuild", "state")
    assert set(Step) - here == {step for kind in elsewhere for step in steps_of(kind)}
