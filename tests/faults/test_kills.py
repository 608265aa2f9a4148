"""``kill -9`` at every named step of what an agent does (snaphold.steps): all converges, nothing is left."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from snaphold.steps import Step
from tests.conftest import processes_naming
from tests.scenarios.served import Served, alive, eventually, kill, query
from tests.support.pauses import Pauses

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("kills")]

WITHIN_S: Final = 60  # promise 6, at default settings
EVERYWHERE: Final = ("agent", "control", "supervisor")
AGENT: Final = "\0-m\0snaphold\0agent"
CONTROL: Final = "\0-m\0snaphold\0api"


def steps_of(task: str) -> list[Step]:
    """The steps of one kind of task, in their order."""
    return [step for step in Step if step.startswith(f"{task}.")]


def with_victims(task: str, *more: tuple[Step, str]) -> list[Any]:
    """Each step with each victim: the agent always, the others in ``make torture`` only."""
    cases = [(step, victim) for step in steps_of(task) for victim in EVERYWHERE]
    return [
        pytest.param(step, victim, id=f"{step}-{victim}", marks=() if victim == "agent" else pytest.mark.torture)
        for step, victim in [*cases, *more]
    ]


class Place:
    """A service whose agent can be stopped at a step, with an instance that stays and a backup of it."""

    def __init__(self, service: Served, pauses: Pauses) -> None:
        self.service = service
        self.pauses = pauses
        self.source = service.instance()
        query(self.source, "CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(200)) ENGINE=InnoDB")
        query(self.source, "INSERT INTO t VALUES (%s, %s)", [(n, "x" * (n % 150)) for n in range(5000)])
        self.expected = query(self.source, "CHECKSUM TABLE t")
        self.good = service.backup(self.source)

    def strike(self, victim: str, instance: Any) -> None:
        """Kill -9 the victim while the agent waits at its step; let what lives go on; start the service if need be."""
        agent = self.pauses.reached()
        match victim:
            case "agent":
                kill(agent)
            case "control":
                kill(self.service.process_of(CONTROL))
            case "supervisor":
                self.service.end(signal.SIGKILL)
            case "tool":
                kill(self.service.process_of("--backup", instance["id"]))
            case "server":
                kill(self.service.process_of("mariadbd", "--datadir", instance["id"]))
        self.pauses.over()
        if victim == "supervisor":
            eventually(lambda: not alive(agent), "the agent to die with its supervisor")
            self.service.start()

    def ends(self, path: str, *statuses: str) -> Any:
        """The thing at ``path`` once it has one of these statuses, or None once it is gone."""

        def look() -> tuple[Any] | None:
            with suppress(httpx.TransportError):
                answer = self.service.call("GET", path)
                if answer.status_code == 404:
                    return (None,)
                (thing,) = answer.json().values()
                return (thing,) if thing["status"] in statuses else None
            return None

        found = eventually(look, f"{path} to be one of {statuses}\n{self.service.tail()}", WITHIN_S)
        return found and found[0]

    def is_sound(self) -> None:
        """The instance that stays is ACTIVE with its data, and no tool runs any more."""
        self.ends(f"/instances/{self.source['id']}", "ACTIVE")

        def intact() -> bool:
            with suppress(Exception):
                return query(self.source, "CHECKSUM TABLE t") == self.expected
            return False

        eventually(intact, "the instance to answer with its data", WITHIN_S)
        for tool in ("--backup", "--prepare", "snaphold.stream.extractor"):
            eventually(lambda tool=tool: not self.service.processes(tool), f"{tool} to end")  # type: ignore[misc]

    def is_gone(self, instance: Any) -> None:
        """Neither a process nor a file of the instance is left."""
        path = self.service.state_dir / "instances" / instance["id"]
        eventually(lambda: not self.service.processes(instance["id"]), "its processes to end", WITHIN_S)
        eventually(lambda: not path.exists(), "its directory to go", WITHIN_S)
        eventually(lambda: not list(path.parent.glob(".removed*")), "its remains to go", WITHIN_S)


@pytest.fixture(scope="module")
def place(instance_network: str) -> Iterator[Place]:
    """One service for all the kills: it must survive them all."""
    state = Path(tempfile.mkdtemp(prefix="snaphold-test-"))
    state.chmod(0o755)
    pauses = Pauses(state / "pauses")
    service = Served(state, instance_network)
    service.environment = pauses.environment
    try:
        service.start()
        yield Place(service, pauses)
        service.end()
    finally:
        for process in processes_naming(state):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        shutil.rmtree(state, ignore_errors=True)


@pytest.mark.parametrize(
    ("step", "victim"),
    with_victims(
        "backup",
        (Step.BACKUP_TOOL_STARTED, "tool"),
        *((step, "server") for step in steps_of("backup")),
    ),
)
def test_a_backup_is_struck(place: Place, step: Step, victim: str) -> None:
    """A struck backup is COMPLETED and can be restored, or FAILED with a reason and nothing in the store."""
    place.pauses.at(step)
    path = "/backups"
    made = place.service.ok("POST", path, {"backup": {"name": "b", "instance": place.source["id"]}})["backup"]
    place.strike(victim, place.source)
    backup = place.ends(f"/backups/{made['id']}", "COMPLETED", "FAILED")
    place.is_sound()
    if backup["status"] == "FAILED":
        assert backup["reason"]
        eventually(lambda: not place.service.objects_of(backup), "the sweep", WITHIN_S)
    else:
        restored = place.service.instance(restorePoint={"backupRef": backup["id"]})
        assert query(restored, "CHECKSUM TABLE t") == place.expected
        place.service.ok("DELETE", f"/instances/{restored['id']}")
        place.ends(f"/instances/{restored['id']}")
        place.is_gone(restored)
        place.service.ok("DELETE", f"/backups/{backup['id']}")
        eventually(lambda: not place.service.objects_of(backup), "the backup's objects to go")
    if step is Step.BACKUP_REPORTED or victim == "control":
        assert backup["status"] == "COMPLETED"  # a control process that comes back in time costs nobody a backup


@pytest.mark.parametrize(("step", "victim"), with_victims("restore"))
def test_a_restore_is_struck(place: Place, step: Step, victim: str) -> None:
    """A struck restore is ACTIVE with the data, or ERROR with a reason and nothing on the host."""
    place.pauses.at(step)
    wanted = {
        "name": "r",
        "flavorRef": 1,
        "volume": {"size": 1},
        "restorePoint": {"backupRef": place.good["id"]},
    }
    made = place.service.ok("POST", "/instances", {"instance": wanted})["instance"]
    place.strike(victim, made)
    path = f"/instances/{made['id']}"
    instance = place.ends(path, "ACTIVE", "ERROR")
    if instance["status"] == "ACTIVE":
        assert query(instance, "CHECKSUM TABLE t") == place.expected
    else:
        assert instance["reason"]
        place.is_gone(instance)
    if step is Step.RESTORE_REPORTED or victim == "control":
        assert instance["status"] == "ACTIVE"
    place.service.ok("DELETE", path)
    place.ends(path)
    place.is_gone(instance)
    place.is_sound()


@pytest.mark.parametrize(("step", "victim"), with_victims("create"))
def test_a_create_is_struck(place: Place, step: Step, victim: str) -> None:
    """A struck create is ACTIVE, or ERROR with a reason and nothing on the host."""
    place.pauses.at(step)
    made = place.service.ok("POST", "/instances", {"instance": {"name": "c", "flavorRef": 1, "volume": {"size": 1}}})
    path = f"/instances/{made['instance']['id']}"
    place.strike(victim, made["instance"])
    instance = place.ends(path, "ACTIVE", "ERROR")
    if instance["status"] == "ERROR":
        assert instance["reason"]
        place.is_gone(instance)
    place.service.ok("DELETE", path)
    place.ends(path)
    place.is_gone(instance)


@pytest.mark.parametrize(("step", "victim"), with_victims("restart"))
def test_a_restart_is_struck(place: Place, step: Step, victim: str) -> None:
    """A struck restart is taken up again: the server runs with its data."""
    place.pauses.at(step)
    place.service.ok("POST", f"/instances/{place.source['id']}/action", {"restart": {}})
    place.strike(victim, place.source)
    place.is_sound()


@pytest.mark.parametrize(("step", "victim"), with_victims("delete"))
def test_a_delete_is_struck(place: Place, step: Step, victim: str) -> None:
    """A struck delete is taken up again: nothing is left."""
    instance = place.service.instance()
    place.pauses.at(step)
    place.service.ok("DELETE", f"/instances/{instance['id']}")
    place.strike(victim, instance)
    assert place.ends(f"/instances/{instance['id']}") is None
    place.is_gone(instance)
