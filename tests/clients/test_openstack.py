"""OpenStack's clients of this API, all of python-troveclient: ``openstack database``, ``trove``, the Python API."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.conftest import PAGE, Place
from tests.clients.person import Person, Program, person, program
from tests.scenarios.served import ACCOUNT, connected, served

pytestmark = pytest.mark.engine
UNKNOWN = str(uuid.uuid4())


@pytest.fixture(scope="module")
def openstack(place: Place, home: Path) -> Iterator[Person]:
    """Somebody with ``openstack``, who logs in over Keystone's v3."""
    modules = [
        "openstackclient.shell",
        "keystoneauth1.identity",
        "openstack.connection",
        "troveclient.osc.plugin",
        "troveclient.osc.v1.database_backups",
        "troveclient.osc.v1.database_instances",
    ]
    login = [
        *("--os-auth-url", f"{place.address}/v3", "--os-username", "demo", "--os-password", "secret"),
        *("--os-project-name", ACCOUNT, "--os-user-domain-id", "default", "--os-project-domain-id", "default"),
    ]
    with person("openstack", "openstack", modules, login, home) as somebody:
        yield somebody


@pytest.fixture(scope="module")
def api(place: Place, home: Path) -> Iterator[Program]:
    """A program that uses troveclient.v1 with a session of keystoneauth's."""
    facts = {"address": place.address, "account": ACCOUNT, "password": "secret"}
    with program("openstack", "troveclient", home, **facts) as caller:
        yield caller


@pytest.fixture(scope="module")
def trove(place: Place, home: Path) -> Iterator[Person]:
    """Somebody with ``trove``, who logs in over Keystone's v2."""
    login = [
        *("--os-auth-url", f"{place.address}/v2.0", "--os-username", "demo", "--os-password", "secret"),
        *("--os-tenant-name", ACCOUNT, "--os-project-name", ACCOUNT, "--json"),
    ]
    with person("openstack", "trove", ["troveclient.shell", "troveclient.v1.shell"], login, home) as somebody:
        yield somebody


def test_openstack_backs_up_and_restores(place: Place, openstack: Person) -> None:
    """`openstack database backup create`, `show` by name, `instance create --backup`, `backup delete`."""
    backup = ("database", "backup")
    with place.busy():
        words = ("create", "osc-full", "-i", place.instance["id"], "--description", "by openstack", "-f", "json")
        full = openstack.read(*backup, *words)
        said = openstack.refused(*backup, "create", "osc-second", "-i", place.instance["id"])
    assert (full["status"], full["description"], full["parent_id"]) == ("NEW", "by openstack", None)
    assert "is not currently available for an action to be performed (instance status was BACKUP)." in said
    assert "(HTTP 422) (Request-ID: req-" in said
    place.completed(full["id"])
    shown = openstack.read(*backup, "show", "osc-full", "-f", "json")
    assert (shown["id"], shown["status"], shown["type"]) == (full["id"], "COMPLETED", "InnoBackupEx")
    assert (shown["datastore"], shown["instance_id"]) == ("mariadb", place.instance["id"])
    wanted = ("--flavor", "1", "--size", "2", "--backup", full["id"])
    made = openstack.read("database", "instance", "create", "osc-restored", *wanted, "-f", "json")
    place.restored(made["id"])
    openstack.does(*backup, "delete", full["id"])
    place.gone(f"/backups/{full['id']}")


def test_openstack_makes_increments(place: Place, openstack: Person) -> None:
    """On a parent that is named, and on the newest backup; deleting the full one takes both along."""
    create, of = ("database", "backup", "create"), ("-i", place.instance["id"], "-f", "json")
    full = place.completed(openstack.read(*create, "osc-base", *of)["id"])
    first = place.on_top_of(full, openstack.read(*create, "osc-first", *of, "--parent", full["id"]))
    second = place.on_top_of(first, openstack.read(*create, "osc-second", *of, "--incremental"))
    words = ("--flavor", "1", "--size", "2", "--backup", second["id"], "-f", "json")
    place.restored(openstack.read("database", "instance", "create", "osc-increment", *words)["id"])
    openstack.does("database", "backup", "delete", full["id"])
    for backup in (full, first, second):
        place.gone(f"/backups/{backup['id']}")


def test_openstack_lists(place: Place, openstack: Person) -> None:
    """Every backup once over all pages; one page as asked for; those of an instance, by its id and by its name."""
    everything = place.backups()
    assert len(everything) > PAGE
    lists = ("database", "backup", "list", "-f", "json")
    rows = openstack.read(*lists)
    assert sorted(row["ID"] for row in rows) == sorted(everything)
    assert {row["Project ID"] for row in rows} == {ACCOUNT}
    page = openstack.read(*lists, "--limit", "2", "--marker", everything[4])
    assert [row["ID"] for row in page] == everything[5:7]
    assert len(openstack.read(*lists, "--datastore", "mariadb", "--limit", "3")) == 3
    assert "Datastore 'nope' cannot be found. (HTTP 404)" in openstack.refused(*lists, "--datastore", "nope")
    for instance in ("id", "name"):
        page = openstack.read(*lists, "-i", place.instance[instance], "--limit", "100")
        assert [row["ID"] for row in page] == everything
    assert openstack.read("database", "instance", "list", "-f", "json")[0]["Operating Status"] == "HEALTHY"


def test_openstack_tells_what_is_wrong(place: Place, openstack: Person) -> None:
    """The service's own words reach the person."""
    backup = ("database", "backup")
    assert "No backup with a name or ID of 'nope' exists." in openstack.refused(*backup, "show", "nope")
    assert "Failed to get database backup nope, error: 404" in openstack.refused(*backup, "delete", "nope")
    said = openstack.refused(*backup, "create", "n" * 65, "-i", place.instance["id"])
    assert "(HTTP 400)" in said
    assert "name" in said


def test_trove_backs_up_and_restores(place: Place, trove: Person) -> None:
    """`trove backup-create`, `backup-show` by name, `create --backup`, `backup-delete` by name."""
    with place.busy():
        full = trove.read("backup-create", place.instance["id"], "trove-full", "--description", "by trove")
        said = trove.refused("backup-create", place.instance["id"], "trove-second")
    assert (full["description"], full["parent_id"]) == ("by trove", None)
    assert "is not currently available for an action to be performed (instance status was BACKUP)." in said
    assert "(HTTP 422) (Request-ID: req-" in said
    place.completed(full["id"])
    shown = trove.read("backup-show", "trove-full")
    assert (shown["id"], shown["status"], shown["datastore"]) == (full["id"], "COMPLETED", "mariadb")
    place.restored(trove.read("create", "trove-restored", "1", "--size", "2", "--backup", "trove-full")["id"])
    trove.does("backup-delete", "trove-full")
    place.gone(f"/backups/{full['id']}")


def test_trove_makes_increments(place: Place, trove: Person) -> None:
    """`trove backup-create --parent` and `--incremental`."""
    create = ("backup-create", place.instance["id"])
    full = place.completed(trove.read(*create, "trove-base")["id"])
    first = place.on_top_of(full, trove.read(*create, "trove-first", "--parent", full["id"]))
    place.on_top_of(first, trove.read(*create, "trove-second", "--incremental"))
    trove.does("backup-delete", "trove-base")
    place.gone(f"/backups/{full['id']}")


def test_trove_lists(place: Place, trove: Person) -> None:
    """Every backup once over all pages; one page as asked for; those of an instance, by its id and by its name."""
    everything = place.backups()
    assert sorted(row["id"] for row in trove.read("backup-list")) == sorted(everything)
    assert [row["id"] for row in trove.read("backup-list", "--limit", "2")] == everything[:2]
    for instance in ("id", "name"):
        rows = trove.read("backup-list-instance", place.instance[instance])
        assert sorted(row["id"] for row in rows) == sorted(everything)
    assert [row["name"] for row in trove.read("list")] == [place.instance["name"]]


def test_trove_tells_what_is_wrong(trove: Person) -> None:
    """The service's own words reach the person."""
    assert "No backup with a name or ID of 'nope' exists." in trove.refused("backup-show", "nope")
    assert "No instance with a name or ID of" in trove.refused("backup-create", UNKNOWN, "b")


def test_the_python_api_backs_up_and_restores(place: Place, api: Program) -> None:
    """`backups.create`, `get`, `instances.create(restorePoint=)`, `backups.delete`; errors have their classes."""
    with place.busy():
        full = api.call("backups.create", "api-full", place.instance["id"], description="by a program")
        busy = api.refused("backups.create", "api-second", place.instance["id"])
    assert (full["status"], full["description"]) == ("NEW", "by a program")
    assert (busy["class"], busy["code"]) == ("UnprocessableEntity", 422)
    place.completed(full["id"])
    assert api.call("backups.get", full["id"])["status"] == "COMPLETED"
    point = {"backupRef": full["id"]}
    place.restored(api.call("instances.create", "api-restored", 1, {"size": 2}, restorePoint=point)["id"])
    api.call("backups.delete", full["id"])
    place.gone(f"/backups/{full['id']}")
    missing = api.refused("backups.get", full["id"])
    assert (missing["class"], missing["code"]) == ("NotFound", 404)


def test_the_python_api_makes_increments(place: Place, api: Program) -> None:
    """`backups.create(parent_id=)` and `backups.create(incremental=True)`."""
    instance = place.instance["id"]
    full = place.completed(api.call("backups.create", "api-base", instance)["id"])
    first = place.on_top_of(full, api.call("backups.create", "api-first", instance, parent_id=full["id"]))
    place.on_top_of(first, api.call("backups.create", "api-second", instance, incremental=True))
    api.call("backups.delete", full["id"])
    place.gone(f"/backups/{full['id']}")


def test_the_python_api_is_told_when_to_come_again(state_dir: Path, instance_network: str, tmp_path: Path) -> None:
    """One backup too many within a minute is refused by 413, whose `Retry-After` reaches the program."""
    with served(state_dir, instance_network, "--rate-factor=1", "--backup-creates-per-minute=1") as service:
        instance = service.instance()
        service.backup(instance)
        facts = {"address": f"http://127.0.0.1:{service.ports['DFW']}", "account": ACCOUNT, "password": "secret"}
        with program("openstack", "troveclient", tmp_path, **facts) as caller:
            refused = caller.refused("backups.create", "one-too-many", instance["id"])
    assert (refused["class"], refused["code"]) == ("RequestEntityTooLarge", 413)
    assert 0 < int(refused["retry_after"]) <= 60


def test_the_python_api_lists(place: Place, api: Program) -> None:
    """A page, and the next by the marker that it brings."""
    everything = place.backups()
    first = api.call("backups.list")
    assert [row["id"] for row in first["rows"]] == everything[:PAGE]
    second = api.call("backups.list", marker=first["next"])
    assert [row["id"] for row in second["rows"]] == everything[PAGE:]
    assert second["next"] is None
    page = api.call("instances.backups", place.instance["id"], limit=3)
    assert [row["id"] for row in page["rows"]] == everything[:3]
    assert api.call("backups.list", instance_id=UNKNOWN)["rows"] == []


def test_openstack_cares_for_an_instance(place: Place, openstack: Person) -> None:
    """Users and rights, root, both resizes, the limits, and a forced delete while a backup is being taken."""
    made = place.service.instance(name="osc-cared-for")
    of = (made["id"],)
    user = ("database", "user")
    openstack.does(*user, "create", *of, "second", "pw")
    openstack.does(*user, "grant", "access", *of, "second", "shop")
    assert openstack.read(*user, "show", "access", *of, "second", "-f", "json") == [{"Name": "shop"}]
    openstack.does(*user, "revoke", "access", *of, "second", "shop")
    assert openstack.read(*user, "show", "access", *of, "second", "-f", "json") == []
    openstack.does(*user, "update", "attributes", *of, "second", "--new_name", "third", "--new_password", "other")
    assert [row["Name"] for row in openstack.read(*user, "list", *of, "-f", "json")] == ["app", "third"]
    root = openstack.read("database", "root", "enable", *of, "-f", "json")
    assert root["name"] == "root"
    assert openstack.read("database", "root", "show", *of, "-f", "json") == {"is_root_enabled": True}
    openstack.does("database", "root", "disable", *of)
    openstack.does("database", "instance", "resize", "volume", *of, "3")
    openstack.does("database", "instance", "resize", "flavor", *of, "2")
    resized = place.service.reaches(f"/instances/{made['id']}", "ACTIVE")
    assert (resized["volume"]["size"], resized["flavor"]["id"]) == (3, "2")
    table, _, rates = openstack.does("database", "limit", "list", "-f", "json").partition("[")
    assert "max_running_backups" in table
    assert {row["Verb"]: row["Value"] for row in json.loads(f"[{rates}")}["DELETE"] == 200
    with connected(made) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE held (id INT) ENGINE=MyISAM")
        cursor.execute("LOCK TABLES held WRITE")
        place.service.ok("POST", "/backups", {"backup": {"name": "forced", "instance": made["id"]}})
        openstack.does("database", "instance", "force", "delete", *of)
    place.gone(f"/instances/{made['id']}")
    (forced,) = [row for row in place.service.ok("GET", "/backups")["backups"] if row["name"] == "forced"]
    assert forced["status"] == "FAILED"
    place.service.ok("DELETE", f"/backups/{forced['id']}")
    place.gone(f"/backups/{forced['id']}")
