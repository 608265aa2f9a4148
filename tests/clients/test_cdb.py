"""``cdb-cli``, Rackspace's own client of this API (cdbclient 1.0.9)."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.conftest import PAGE, Place
from tests.clients.person import Person, person
from tests.scenarios.served import ACCOUNT

pytestmark = pytest.mark.engine
UNKNOWN = str(uuid.uuid4())


@pytest.fixture(scope="module")
def cdb(place: Place, home: Path) -> Iterator[Person]:
    """Somebody with ``cdb-cli``, who logs in by an API key."""
    login = [
        *("--os-auth-system", "rackspace", "--os-auth-url", f"{place.address}/v2.0/", "--os-username", "keys"),
        *("--os-password", place.api_key, "--os-region-name", "DFW", "--os-tenant-id", ACCOUNT, "--json"),
    ]
    with person("cdb", "cdb-cli", ["cdbclient.shell"], login, home) as somebody:
        yield somebody


def test_cdb_backs_up_and_restores(place: Place, cdb: Person) -> None:
    """`cdb-cli backup-create`, `backup-show` by name, `create --backup`, `backup-delete`."""
    instance = place.instance["id"]
    with place.busy():
        full = cdb.read("backup-create", "cdb-full", "--instance", instance, "--description", "by cdb-cli")
        said = cdb.refused("backup-create", "cdb-second", "--instance", instance)
    assert (full["status"], full["description"], full["is_automated"]) == ("NEW", "by cdb-cli", False)
    assert "is not currently available for an action to be performed (instance status was BACKUP)." in said
    assert "(HTTP 422) (Request-ID: req-" in said
    place.completed(full["id"])
    shown = cdb.read("backup-show", "cdb-full")
    assert (shown["id"], shown["status"], shown["is_automated"]) == (full["id"], "COMPLETED", 0)
    assert shown["source"] == {"type": "instance", "id": instance}
    place.restored(cdb.read("create", "cdb-restored", "1", "--size", "2", "--backup", full["id"])["id"])
    cdb.does("backup-delete", full["id"])
    place.gone(f"/backups/{full['id']}")


def test_cdb_makes_increments(place: Place, cdb: Person) -> None:
    """`cdb-cli backup-create --parent`, on a full one and on an increment; deleting the full one takes both along."""
    create, of = "backup-create", ("--instance", place.instance["id"])
    full = place.completed(cdb.read(create, "cdb-base", *of)["id"])
    first = place.on_top_of(full, cdb.read(create, "cdb-first", *of, "--parent", full["id"]))
    second = place.on_top_of(first, cdb.read(create, "cdb-second", *of, "--parent", first["id"]))
    cdb.does("backup-delete", full["id"])
    for backup in (full, first, second):
        place.gone(f"/backups/{backup['id']}")


def test_cdb_copies_to_another_region(place: Place, cdb: Person) -> None:
    """`cdb-cli backup-copy`, named or not: what is in the other region is restored there, and is not made twice."""
    full = place.completed(cdb.read("backup-create", "cdb-near", "--instance", place.instance["id"])["id"])
    cdb.does("backup-copy", full["id"], "IAD", "--name", "cdb-far", "--description", "by cdb-cli")
    (copy,) = place.copies(full)
    assert (copy["name"], copy["description"], copy["status"]) == ("cdb-far", "by cdb-cli", "COMPLETED")
    said = cdb.refused("backup-copy", full["id"], "IAD")
    assert f"A copy of backup {full['id']} is in region IAD already. (HTTP 422)" in said
    second = place.completed(cdb.read("backup-create", "cdb-second", "--instance", place.instance["id"])["id"])
    cdb.does("backup-copy", second["id"], "IAD")
    (copy,) = place.copies(second)
    assert copy["name"] == "cdb-second-copy"
    assert "(HTTP 400)" in cdb.refused("backup-copy", second["id"], "LON")
    for backup in (full, second):
        cdb.does("backup-delete", backup["id"])
        place.gone(f"/backups/{backup['id']}")


def test_cdb_lists(place: Place, cdb: Person) -> None:
    """Every backup once over all pages; one page as asked for; those of an instance."""
    everything = place.backups()
    assert len(everything) > PAGE
    assert sorted(row["id"] for row in cdb.read("backup-list")) == sorted(everything)
    assert [row["id"] for row in cdb.read("backup-list", "--limit", "2")] == everything[:2]
    rows = cdb.read("backup-list-instance", place.instance["id"])
    assert sorted(row["id"] for row in rows) == sorted(everything)
    assert [row["name"] for row in cdb.read("list")] == [place.instance["name"]]


def test_cdb_tells_what_is_wrong(place: Place, cdb: Person) -> None:
    """The service's own words reach the person."""
    assert "No backup with a name or ID of 'nope' exists." in cdb.refused("backup-show", "nope")
    assert f"Backup '{UNKNOWN}' cannot be found. (HTTP 404)" in cdb.refused("backup-copy", UNKNOWN, "IAD")
    said = cdb.refused("backup-create", " ", "--instance", place.instance["id"])
    assert "(HTTP 400)" in said
    large = ("--description", "d" * 1_100_000)
    said = cdb.refused("backup-create", "large", "--instance", place.instance["id"], *large)
    assert "(HTTP 413)" in said
