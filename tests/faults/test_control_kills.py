"""``kill -9`` at every named step of the control process: what was committed happens, deletes reach their end.

At the ``control`` steps something was committed while its answer was still to be sent: the answer is lost.
"""

import gzip
import json
import shutil
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from snaphold.model import SERVICE_ACCOUNT, rfc3339
from snaphold.steps import Step
from tests.faults.place import Place, opened_place, struck, with_victims
from tests.scenarios.served import eventually, kill, query

pytestmark = pytest.mark.engine

CONTROL: Final = ("control", "supervisor")


@pytest.fixture(scope="module")
def place(lasting_state_dir: Path, instance_network: str, pytestconfig: pytest.Config) -> Iterator[Place]:
    """One service for all the kills: it must survive them all."""
    with opened_place(lasting_state_dir, instance_network, pytestconfig) as place:
        yield place


REMOVAL_VICTIMS = with_victims("removal", (*CONTROL, "agent"), {})


@pytest.mark.parametrize(("step", "victim"), struck(REMOVAL_VICTIMS))
def test_a_delete_of_a_backup_is_struck(place: Place, step: Step, victim: str) -> None:
    """A struck delete is taken up again, and ends: the backup is gone with all its objects."""
    backup = place.service.backup(place.source)
    place.pauses.at(step)
    place.service.ok("DELETE", f"/backups/{backup['id']}")
    place.strike(victim, place.source["id"])

    assert place.ends(f"/backups/{backup['id']}") is None
    place.is_sound()


SWEEP_VICTIMS: Final[dict[Step, list[str]]] = {
    step: those for step, those in REMOVAL_VICTIMS.items() if step is not Step.REMOVAL_RECORDED
}


@pytest.mark.parametrize(("step", "victim"), struck(SWEEP_VICTIMS))
def test_a_sweep_is_struck(place: Place, step: Step, victim: str) -> None:
    """What a failed backup left is swept, also when the sweep is cut short; the row stays, FAILED with its reason."""
    place.pauses.at(Step.BACKUP_MANIFEST_WRITTEN)
    wanted = {"backup": {"name": "b", "instance": place.source["id"]}}
    path = f"/backups/{place.service.ok('POST', '/backups', wanted)['backup']['id']}"
    place.strike("agent", place.source["id"], then=step)
    place.strike(victim, place.source["id"])

    assert place.ends(path, "FAILED")["reason"]
    place.is_sound()


VERIFICATION_VICTIMS = with_victims("proof", CONTROL, {})


@pytest.mark.parametrize(("step", "victim"), struck(VERIFICATION_VICTIMS))
def test_a_proof_of_objects_is_struck(place: Place, step: Step, victim: str) -> None:
    """A struck verification is taken up again, and passes; the backup is free then."""
    path = f"/backups/{place.service.backup(place.source)['id']}"
    taken = place.service.ok("GET", path)["backup"]["verification"]
    eventually(lambda: rfc3339(time.time_ns() // 1000) != taken["at"], "another second, by which proofs are told apart")
    place.pauses.at(step)
    place.service.ok("POST", f"{path}/action", {"verify": {}})
    place.strike(victim, place.source["id"])

    def free() -> bool:
        with suppress(httpx.TransportError):
            return place.service.call("DELETE", path).status_code == 202
        return False

    def verified() -> bool:
        answer = place.answer(path)
        verification = None if answer is None else answer.json()["backup"]["verification"]
        return verification is not None and verification["status"] == "passed" and verification != taken

    place.soon(verified, "the proof")
    place.soon(free, "the backup to be free")
    assert place.ends(path) is None
    place.is_sound()


NIGHTLY_VICTIMS: Final[dict[Step, list[str]]] = {Step.STATE_SAVED: [*CONTROL, "agent"]}


@pytest.mark.parametrize(("step", "victim"), struck(NIGHTLY_VICTIMS))
def test_a_nightly_save_is_struck(place: Place, step: Step, victim: str) -> None:
    """A worker that is killed while it saves the service's state leaves a whole one, or makes one at its next start."""
    saved = place.service.state_dir / "regions" / "DFW" / "store" / SERVICE_ACCOUNT
    shutil.rmtree(saved, ignore_errors=True)  # so that one is due, with the first round after a start
    place.pauses.at(step)
    kill(place.service.process_of("\0-m\0snaphold\0api"))
    place.strike(victim, place.source["id"])

    (state,) = place.soon(lambda: list(saved.rglob("*.json.gz")), "a saved state")
    assert json.loads(gzip.decompress(state.read_bytes()))["region"] == "DFW"
    assert [path for path in saved.rglob("*") if path.is_file()] == [state]
    place.is_sound()


WORKS: Final = ("backup", "restore", "delete")
ANSWER_VICTIMS = with_victims(
    "control",
    [f"{victim} during {work}" for work in WORKS for victim in (*CONTROL, "agent")],
    {Step.CONTROL_ASKED: [f"{victim} during removal" for victim in CONTROL]},
)


@pytest.mark.parametrize(("step", "how"), struck(ANSWER_VICTIMS))
def test_an_answer_is_lost(place: Place, step: Step, how: str) -> None:
    """What was committed happens or ends with a reason, also when nobody heard the answer; and it happens once."""
    victim, work = how.split(" during ")
    name = str(uuid.uuid4())
    request = request_of(place, work, name)
    place.pauses.at(step)
    with ThreadPoolExecutor(1) as caller:
        caller.submit(ask, place, *request)
        place.strike(victim, place.source["id"])

    if work == "backup":
        backup = place.ends(f"/backups/{place.named('backups', name)['id']}", "COMPLETED", "FAILED")
        assert backup["status"] == "COMPLETED" or backup["reason"]
    elif work == "restore":
        instance = place.ends(f"/instances/{place.named('instances', name)['id']}", "ACTIVE", "ERROR")
        assert instance["status"] == "ERROR" or query(instance, "CHECKSUM TABLE t") == place.expected
        assert instance["status"] == "ACTIVE" or instance["reason"]
        place.forget(f"/instances/{instance['id']}")
    else:
        assert place.ends(request[1]) is None
    place.is_sound()


def request_of(place: Place, work: str, name: str) -> tuple[str, str, object]:
    """What to ask for; what is made by it gets this name."""
    match work:
        case "backup":
            return "POST", "/backups", {"backup": {"name": name, "instance": place.source["id"]}}
        case "restore":
            wanted = {"name": name, "flavorRef": 1, "restorePoint": {"backupRef": place.good["id"]}}
            return "POST", "/instances", {"instance": wanted}
        case "delete":
            return "DELETE", f"/instances/{place.service.instance()['id']}", None
        case "removal":
            return "DELETE", f"/backups/{place.service.backup(place.source)['id']}", None
    raise AssertionError(work)


def ask(place: Place, method: str, path: str, body: object) -> None:
    """A request whose answer may be lost."""
    with suppress(httpx.TransportError):
        place.service.call(method, path, body)


@pytest.mark.parametrize(("step", "victim"), struck(with_victims("schedule", CONTROL, {})))
def test_a_scheduled_run_is_struck(place: Place, step: Step, victim: str) -> None:
    """A run that was begun is not begun again, and its backup ends as any other."""
    wanted = {"action": "backup", "instance_id": place.source["id"], "day_of_week": 7, "hour": 3, "minute": 0}
    schedule = place.service.ok("POST", "/schedules", {"schedule": wanted})["schedule"]
    place.pauses.at(step)
    place.service.ok("PUT", f"/schedules/{schedule['id']}", {"schedule": {"run_now": "true"}})
    place.strike(victim, place.source["id"])

    def automated() -> list[Any]:
        answer = place.answer("/backups?limit=100")
        return [] if answer is None else [row for row in answer.json()["backups"] if row["is_automated"]]

    (run,) = place.soon(automated, "the scheduled backup")
    backup = place.ends(f"/backups/{run['id']}", "COMPLETED", "FAILED")
    assert backup["status"] == "COMPLETED" or backup["reason"]
    place.is_sound()
    assert [row["id"] for row in automated()] == [run["id"]]
    place.service.ok("DELETE", f"/schedules/{schedule['id']}")
    place.forget(f"/backups/{run['id']}")
