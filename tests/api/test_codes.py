"""Every response code that the chapter's tables list, operation by operation, as far as the operation can have it."""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from snaphold.api.token_cache import TokenCache
from snaphold.errors import Unavailable
from snaphold.identity.base import Caller
from snaphold.peers.region import PeerClient
from snaphold.store.gates import LocalStoreGate
from tests.api.site import Secrets, Site, check_fault, opened_site
from tests.scenarios.served import free_port

TABLE: Final = {400, 401, 403, 404, 405, 413, 415, 422, 500, 501, 503}  # each operation's, and 415 for bodies
UNKNOWN: Final = str(uuid.UUID(int=7))
PEER_TOKEN: Final = "the-regions-know-each-other"


@dataclass(frozen=True, kw_only=True)
class Operation:
    """A request that is accepted, ones that are refused by the operation itself, and codes that it cannot have."""

    method: str
    path: str
    body: Any
    accepted: int
    refused: dict[int, tuple[str, Any]]  # path, body
    never: frozenset[int] = frozenset()
    by_host: bool = False  # whether a host has to do it
    wrong_method: str = "PATCH"


def backup(**fields: Any) -> dict[str, Any]:
    """A body of ``POST /backups``."""
    return {"backup": {"name": "n", **fields}}


def restored(**fields: Any) -> dict[str, Any]:
    """A body of ``POST /instances``."""
    return {"instance": {"name": "r", "flavorRef": 1, **fields}}


def copied(region: str) -> dict[str, Any]:
    """A body of a copy."""
    return {"copy-backup": {"target_backup_region": region, "name": "c", "description": ""}}


GROUP: Final = {"type": "ha", "id": UNKNOWN}
OPERATIONS: Final = {
    "create a backup": Operation(
        method="POST",
        path="/backups",
        body=backup(instance="IDLE"),
        accepted=202,
        refused={
            400: ("/backups", backup()),
            404: ("/backups", backup(instance=UNKNOWN)),
            422: ("/backups", backup(instance="BUSY")),
            501: ("/backups", backup(restore_from={"remote_location": "x"})),
        },
        by_host=True,
    ),
    "create a backup of a group": Operation(
        method="POST",
        path="/backups",
        body=backup(instance=None, source=GROUP),
        accepted=404,  # there are no groups
        refused={
            400: ("/backups", backup(instance=None, source={"type": "ha"})),
            404: ("/backups", backup(instance=None, source=GROUP)),
            501: (
                "/ha",
                {
                    "ha": {
                        "name": "g",
                        "datastore": {"type": "mariadb"},
                        "replica_source": [{"flavorRef": 1, "volume": {"size": 1}}],
                        "replicas": [{"flavorRef": 1, "volume": {"size": 1}}],
                    }
                },
            ),
        },
        never=frozenset({422}),
    ),
    "list backups": Operation(
        method="GET",
        path="/backups",
        body=None,
        accepted=200,
        refused={400: ("/backups?marker=qqq", None), 404: ("/backups?datastore=nope", None)},
        never=frozenset({415, 422, 501}),
    ),
    "show a backup": Operation(
        method="GET",
        path="/backups/COMPLETED",
        body=None,
        accepted=200,
        refused={404: (f"/backups/{UNKNOWN}", None)},
        never=frozenset({400, 415, 422, 501}),
    ),
    "delete a backup": Operation(
        method="DELETE",
        path="/backups/SPARE",
        body=None,
        accepted=202,
        refused={404: (f"/backups/{UNKNOWN}", None), 422: ("/backups/RUNNING", None)},
        never=frozenset({400, 415, 501}),
    ),
    "list backups of an instance": Operation(
        method="GET",
        path="/instances/IDLE/backups",
        body=None,
        accepted=200,
        refused={400: ("/instances/IDLE/backups?limit=0", None), 404: (f"/instances/{UNKNOWN}/backups", None)},
        never=frozenset({415, 422, 501}),
    ),
    "restore a backup": Operation(
        method="POST",
        path="/instances",
        body=restored(restorePoint={"backupRef": "COMPLETED"}),
        accepted=200,
        refused={
            400: ("/instances", restored(restorePoint={})),
            404: ("/instances", restored(restorePoint={"backupRef": UNKNOWN})),
            422: ("/instances", restored(restorePoint={"backupRef": "RUNNING"})),
            501: ("/instances", restored(volume={"size": 1}, replica_of="IDLE")),
        },
        by_host=True,
    ),
    "list backups of a group": Operation(
        method="GET",
        path=f"/ha/{UNKNOWN}/backups",
        body=None,
        accepted=404,  # there are no groups
        refused={400: (f"/ha/{UNKNOWN}/backups?limit=0", None), 404: (f"/ha/{UNKNOWN}/backups", None)},
        never=frozenset({415, 422, 501}),
    ),
    "copy a backup": Operation(
        method="POST",
        path="/backups/COMPLETED/action",
        body=copied("IAD"),
        accepted=202,
        refused={
            400: ("/backups/COMPLETED/action", copied("LON")),
            404: (f"/backups/{UNKNOWN}/action", copied("IAD")),
            422: ("/backups/RUNNING/action", copied("IAD")),
        },
        never=frozenset({501}),
    ),
}
EACH: Final = pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)


@dataclass
class Place:
    """A site with something in every state, named by words in paths and bodies."""

    site: Site
    store: Path
    ids: dict[str, str]

    def send(
        self, method: str, path: str, body: Any = None, *, user: str | None = "demo", **more: Any
    ) -> httpx.Response:
        """A request below the account 1234."""
        headers = more.pop("headers", {}) | ({} if user is None else {"X-Auth-Token": self.site.token(user)})
        if body is not None:
            more["json"] = self._filled(body)
        return self.site.send(method, f"/v1.0/1234{self._filled(path)}", headers=headers, **more)

    def _filled(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._filled(part) for key, part in value.items()}
        if isinstance(value, list):
            return [self._filled(part) for part in value]
        if isinstance(value, str):
            for word, known in self.ids.items():
                value = value.replace(word, known)
        return value


def region_at(directory: Path, name: str, url: str) -> PeerClient:
    """Another region, as this one sees it."""
    (directory / "peer.token").write_text(PEER_TOKEN, "ascii")
    return PeerClient(name, url, directory / "peer.token")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """What refuses changes nothing, so that all of it happens in one place, beside the region IAD and a silent ORD."""
    directory, beside = tmp_path_factory.mktemp("codes"), tmp_path_factory.mktemp("beside")
    (directory / "store").mkdir(mode=0o700)
    with (
        opened_site(beside, name="IAD", known_peers=Secrets({PEER_TOKEN: {"DFW"}})) as there,
        opened_site(
            directory,
            gate=LocalStoreGate(directory / "store"),
            peers={
                "IAD": region_at(directory, "IAD", there.url),
                "ORD": region_at(directory, "ORD", f"http://127.0.0.1:{free_port()}"),
            },
        ) as site,
    ):
        there.token("demo")
        idle, busy = site.instance()["id"], site.instance()["id"]
        ids = {"IDLE": idle, "BUSY": busy, "COMPLETED": site.backup(idle)["id"], "SPARE": site.backup(idle)["id"]}
        ids["RUNNING"] = site.ok("POST", "/backups", backup(instance=busy))["backup"]["id"]
        site.claim()
        yield Place(site, directory / "store", ids)


class FailingIdentity:
    """A backend of identity that cannot tell who is calling."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def version(self) -> object:
        """Always the same."""
        return None

    def validate(self, token: str) -> Caller:
        """Fail."""
        del token
        raise self._error


@EACH
def test_each_code_of_the_table_can_be_had(operation: Operation) -> None:
    """What the operation refuses itself, what any request can meet, and what it cannot have: none is missing."""
    by_any = {401, 403, 405, 413, 500, 503} | ({415} if operation.body is not None else set())
    assert {*operation.refused, *by_any, *operation.never} == TABLE


@EACH
def test_what_it_refuses(place: Place, operation: Operation) -> None:
    """400, 404, 422 and 501, each for its own reason."""
    for code, (path, body) in operation.refused.items():
        check_fault(place.send(operation.method, path, body), code)


@EACH
def test_who_is_calling(place: Place, operation: Operation) -> None:
    """401 without a good token; 403 for another account, and for a role that does not give the right."""
    for headers in ({}, {"X-Auth-Token": "nope"}):
        check_fault(place.send(operation.method, operation.path, operation.body, user=None, headers=headers), 401)
    check_fault(place.send(operation.method, operation.path, operation.body, user="other"), 403)
    if operation.method != "GET":
        check_fault(place.send(operation.method, operation.path, operation.body, user="observer"), 403)
    if operation.method == "DELETE":
        check_fault(place.send(operation.method, operation.path, user="creator"), 403)


@EACH
def test_method_and_media_type(place: Place, operation: Operation) -> None:
    """405 with what is allowed; 415 for a body that is no JSON, in a fault that is, whatever the caller would like."""
    answer = place.send(operation.wrong_method, operation.path)
    check_fault(answer, 405)
    assert operation.method in answer.headers["Allow"]
    if operation.body is not None:
        headers = {"Content-Type": "application/xml", "Accept": "application/xml"}
        check_fault(place.send(operation.method, operation.path, content=b"<backup/>", headers=headers), 415)


@EACH
@pytest.mark.parametrize(
    ("error", "code"), [(RuntimeError("lost"), 500), (Unavailable("away"), 503)], ids=["500", "503"]
)
def test_a_part_that_fails(place: Place, operation: Operation, error: Exception, code: int) -> None:
    """500 for what nobody foresaw, 503 for a part that is silent."""
    place.site.token("demo")
    state = place.site.app.state
    context = state.context
    state.context = replace(context, identity=FailingIdentity(error), token_cache=TokenCache())
    try:
        check_fault(place.send(operation.method, operation.path, operation.body), code)
    finally:
        state.context = context


@pytest.mark.parametrize("name", ["create a backup", "restore a backup"])
def test_a_store_that_refuses_or_is_away(place: Place, name: str) -> None:
    """403 where the account's store is closed to it, 503 where there is no store, and nothing was made."""
    operation = OPERATIONS[name]
    before = place.site.ok("GET", "/instances"), place.site.ok("GET", "/backups")
    store = place.store
    (store / "1234").rename(store / "kept")
    (store / "1234").mkdir(mode=0o000)
    check_fault(place.send(operation.method, operation.path, operation.body), 403, "The object store refuses .*")
    (store / "1234").rmdir()
    (store / "kept").rename(store / "1234")
    store.rename(store.with_name("away"))
    check_fault(place.send(operation.method, operation.path, operation.body), 503, "The object store does not .*")
    store.with_name("away").rename(store)
    assert (place.site.ok("GET", "/instances"), place.site.ok("GET", "/backups")) == before


def test_a_region_that_is_away(place: Place) -> None:
    """503 for a copy where the other region does not answer, and none is on its way."""
    answer = place.send("POST", "/backups/COMPLETED/action", copied("ORD"))
    check_fault(answer, 503, r"Region ORD does not answer\.")
    assert "copies" not in place.site.ok("GET", f"/backups/{place.ids['COMPLETED']}")["backup"]


@EACH
def test_too_much(tmp_path: Path, operation: Operation) -> None:
    """413 for a body that is too large, or for one request too many."""
    settings: dict[str, Any] = {"rate_factor": 1, "backup_deletes_per_minute": 1, "reads_per_minute": 3}
    with opened_site(tmp_path, max_body_bytes=1024, **settings) as site:
        if operation.body is not None:
            place = Place(site, tmp_path / "store", {})
            check_fault(place.send(operation.method, operation.path, {**operation.body, "x": "x" * 1024}), 413)
            return
        idle = site.instance()["id"]
        place = Place(site, tmp_path / "store", {"IDLE": idle, "COMPLETED": UNKNOWN, "SPARE": site.backup(idle)["id"]})
        for _ in range(3):
            place.send(operation.method, operation.path)
        answer = place.send(operation.method, operation.path)
        check_fault(answer, 413)
        assert answer.headers["Retry-After"] == "60"


@EACH
def test_what_it_accepts(place: Place, operation: Operation) -> None:
    """The code that the contract's section 1 settles; ``.json`` at the path's end and a wish for XML change nothing."""
    path, _, query = operation.path.partition("?")
    headers = {"Accept": "application/xml"}
    answer = place.send(operation.method, f"{path}.json{query}", operation.body, headers=headers)
    assert answer.status_code == operation.accepted, answer.text
    assert answer.headers.get("Content-Type", "application/json") == "application/json"
    if operation.by_host:
        place.site.work()
