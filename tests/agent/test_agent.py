from collections.abc import Callable
from typing import Any

import pytest

from snaphold.config import Settings
from snaphold.host.servers import Servers
from snaphold.steps import Step
from tests.agent.conftest import Place, running_agent
from tests.support.instances import wait_for

pytestmark = pytest.mark.engine
When = Callable[[Step, Callable[[], object]], None]


def ends(place: Place, path: str, *statuses: str) -> Any:
    """The thing at ``path`` once it has one of these statuses."""

    def look() -> bool:
        (thing,) = place.site.ok("GET", path).values()
        seen.append(thing)
        return thing["status"] in statuses

    seen: list[Any] = []
    wait_for(look, f"{path} to be {statuses}", 60)
    return seen[-1]


def an_instance(place: Place) -> Any:
    """An ACTIVE instance that the agent has built."""
    # The host that the site plays says hello first; the agent's own hello takes its place.
    wait_for(lambda: place.line.arrived["hello"], "the agent's hello")
    body = {"instance": {"name": "db", "flavorRef": 1, "volume": {"size": 1}}}
    made = place.site.ok("POST", "/instances", body)["instance"]
    return ends(place, f"/instances/{made['id']}", "ACTIVE")


def begin_backup(place: Place, instance: Any) -> str:
    """Ask for a backup; its path."""
    body = {"backup": {"name": "b", "instance": instance["id"]}}
    return f"/backups/{place.site.ok('POST', '/backups', body)['backup']['id']}"


def test_an_answer_to_a_report_that_is_lost(place: Place, servers: Servers, host_settings: Settings) -> None:
    """A report is repeated until it is answered; a backup that is recorded by then keeps its objects."""
    with running_agent(place, servers, host_settings):
        instance = an_instance(place)
        place.line.lose["report"] = 2
        backup = ends(place, begin_backup(place, instance), "COMPLETED", "FAILED")
        wait_for(lambda: place.line.lose["report"] == 0, "the lost answers")
    assert backup["status"] == "COMPLETED"
    assert sorted(place.objects()) == [
        f"{backup['id']}.{end}" for end in ("index", "json", "proof.json", "xbstream.gz")
    ]


@pytest.mark.parametrize(
    "step", [Step.BACKUP_TOOL_STARTED, Step.BACKUP_PUBLISHED, Step.BACKUP_MANIFEST_WRITTEN], ids=str
)
def test_a_backup_that_is_overtaken(
    place: Place, servers: Servers, host_settings: Settings, when: When, step: Step
) -> None:
    """An attempt that was abandoned removes what it has put, the manifest too, and reports nothing."""
    when(step, place.give_up)
    with running_agent(place, servers, host_settings):
        instance = an_instance(place)
        backup = ends(place, begin_backup(place, instance), "COMPLETED", "FAILED")
        assert backup["status"] == "FAILED"
        wait_for(lambda: place.objects() == [], "the objects to go")
        ends(place, f"/instances/{instance['id']}", "ACTIVE")


def test_an_agent_that_is_told_to_stop(place: Place, servers: Servers, host_settings: Settings, when: When) -> None:
    """A stopping agent ends its backup, removes what it has put, and says why; the database server goes on."""
    with running_agent(place, servers, host_settings) as agent:
        instance = an_instance(place)
        when(Step.BACKUP_TOOL_STARTED, agent.stop)
        path = begin_backup(place, instance)
        backup = ends(place, path, "COMPLETED", "FAILED")
    assert (backup["status"], backup["reason"]) == ("FAILED", "The agent of its host was stopped.")
    assert place.objects() == []
    assert servers.running(instance["id"])


def test_a_backup_while_the_api_is_silent(place: Place, servers: Servers, host_settings: Settings, when: When) -> None:
    """An API that is away while a backup runs costs nothing: the agent goes on and reports when it is back."""
    when(Step.BACKUP_CLAIMED, place.line.cut.set)
    when(Step.BACKUP_MANIFEST_WRITTEN, place.line.cut.clear)
    with running_agent(place, servers, host_settings):
        instance = an_instance(place)
        backup = ends(place, begin_backup(place, instance), "COMPLETED", "FAILED")
    assert backup["status"] == "COMPLETED"


def test_a_name_that_is_taken(place: Place, servers: Servers, host_settings: Settings, when: When) -> None:
    """An object of another's under the backup's name is neither replaced nor removed; the backup is FAILED."""
    with running_agent(place, servers, host_settings):
        instance = an_instance(place)
        paths: list[str] = []

        def put_another() -> None:
            (backup,) = place.site.ok("GET", "/backups")["backups"]
            paths.append(f"{backup['id']}.json")
            place.stores.of("1234").put(paths[0], b"not ours")

        when(Step.BACKUP_PUBLISHED, put_another)
        backup = ends(place, begin_backup(place, instance), "COMPLETED", "FAILED")
        assert backup["status"] == "FAILED"
        assert paths[0] in backup["reason"]
        assert place.objects() == paths


def test_a_restore_that_is_overtaken(place: Place, servers: Servers, host_settings: Settings, when: When) -> None:
    """The server of a restore that was abandoned is removed: nobody could ever reach it."""
    with running_agent(place, servers, host_settings):
        instance = an_instance(place)
        backup = ends(place, begin_backup(place, instance), "COMPLETED")
        when(Step.RESTORE_FINISHED, place.give_up)
        body = {"name": "r", "flavorRef": 1, "volume": {"size": 1}, "restorePoint": {"backupRef": backup["id"]}}
        made = place.site.ok("POST", "/instances", {"instance": body})["instance"]
        ends(place, f"/instances/{made['id']}", "ERROR")
        wait_for(lambda: servers.ids() == [instance["id"]], "the restored server to go")


def test_questions(place: Place, servers: Servers, host_settings: Settings) -> None:
    """A question is answered by the server itself, its refusals too."""
    with running_agent(place, servers, host_settings):
        instance = an_instance(place)
        path = f"/instances/{instance['id']}/databases"
        place.site.ok("POST", path, {"databases": [{"name": "one"}]})
        assert [row["name"] for row in place.site.ok("GET", path)["databases"]] == ["one"]
        assert place.site.call("POST", path, {"databases": [{"name": "one"}]}).status_code == 400
        assert place.site.call("DELETE", f"{path}/two").status_code == 404
        servers.stop(instance["id"])
        wait_for(lambda: place.site.call("GET", path).is_success, "the server to be started again", 60)
