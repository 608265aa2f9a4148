import pytest

from snaphold.model import datastore_id, version_id
from tests.api.site import Site, check_fault

TYPE, VERSION = datastore_id("mariadb"), version_id("mariadb", "10.11")


def test_flavors(site: Site) -> None:
    """Ids 1 to 8 are numbers here, each twice as large as the one before, with links `self` and `bookmark`."""
    flavors = site.ok("GET", "/flavors")["flavors"]
    assert [(flavor["id"], flavor["ram"]) for flavor in flavors] == [(n, 256 << n) for n in range(1, 9)]
    assert [link["rel"] for link in flavors[0]["links"]] == ["self", "bookmark"]
    assert site.ok("GET", "/flavors/3") == {"flavor": flavors[2]}


@pytest.mark.parametrize("flavor", ["0", "9", "x", "-1", "99999999999999999999"])
def test_unknown_flavor(site: Site, flavor: str) -> None:
    """Any other is a 404."""
    check_fault(site.call("GET", f"/flavors/{flavor}"), 404)


def test_datastores(site: Site) -> None:
    """What the hosts said that they can run, with ids that backups name too."""
    (datastore,) = site.ok("GET", "/datastores")["datastores"]
    (version,) = datastore["versions"]
    assert (datastore["id"], datastore["name"], datastore["default_version"]) == (TYPE, "mariadb", VERSION)
    assert (version["id"], version["name"], version["full_version"]) == (VERSION, "10.11", "10.11.19")
    for name in (TYPE, "mariadb", "MariaDB"):
        assert site.ok("GET", f"/datastores/{name}") == {"datastore": datastore}
        assert site.ok("GET", f"/datastores/{name}/versions") == {"versions": [version]}
        for number in (VERSION, "10.11"):
            assert site.ok("GET", f"/datastores/{name}/versions/{number}") == {"version": version}
    assert site.ok("GET", f"/datastores/versions/{VERSION}") == {"version": version}
    backup = site.backup(site.instance()["id"])
    assert backup["datastore"]["version_id"] == VERSION


@pytest.mark.parametrize(
    "path", ["mysql", "nope", "mysql/versions", "mariadb/versions/5.5", f"mysql/versions/{VERSION}", "versions/x"]
)
def test_unknown_datastore(site: Site, path: str) -> None:
    """What no host can run is a 404, however well known it is."""
    check_fault(site.call("GET", f"/datastores/{path}"), 404, "Datastore .*cannot be found.")
