"""``pyrax.cloud_databases`` of pyrax 1.10, Rackspace's older Python library."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.conftest import PAGE, Place
from tests.clients.person import Program, program

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def databases(place: Place, home: Path) -> Iterator[Program]:
    """A program that uses ``pyrax.cloud_databases``, logged in by an API key."""
    facts = {"address": place.address, "user": "keys", "api_key": place.api_key, "region": "DFW"}
    with program("pyrax", "pyrax", home, **facts) as caller:
        yield caller


def test_pyrax_backs_up_and_restores(place: Place, databases: Program) -> None:
    """`create_backup` (which returns what it has sent), `get_backup`, `restore_backup`, `delete_backup`."""
    instance = place.instance["id"]
    with place.busy():
        databases.call("create_backup", instance, "pyrax-full", description="by pyrax")
        assert databases.refused("create_backup", instance, "pyrax-second")["code"] == 422
    (made,) = (row for row in databases.call("list_backups")["rows"] if row["name"] == "pyrax-full")
    place.completed(made["id"])
    shown = databases.call("get_backup", made["id"])
    assert (shown["status"], shown["description"]) == ("COMPLETED", "by pyrax")
    place.restored(databases.call("restore_backup", made["id"], "pyrax-restored", 1, 2)["id"])
    databases.call("delete_backup", made["id"])
    place.gone(f"/backups/{made['id']}")


def test_pyrax_lists(place: Place, databases: Program) -> None:
    """The first page of all; an instance's in pages by offset."""
    everything = place.backups()
    assert [row["id"] for row in databases.call("list_backups")["rows"]] == everything[:PAGE]
    pages = [databases.call("list_backups", place.instance["id"], marker=offset) for offset in (0, PAGE)]
    assert [row["id"] for page in pages for row in page["rows"]] == everything
    assert [row["name"] for row in databases.call("list")["rows"]] == [place.instance["name"]]


def test_pyrax_tells_what_is_wrong(databases: Program) -> None:
    """Errors have their codes."""
    assert databases.refused("get_backup", str(uuid.uuid4()))["code"] == 404
