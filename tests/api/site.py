"""A region with its edge: the real application on a real socket, and a host that the test plays over `/agent/v1`."""

import re
import ssl
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import httpx
import structlog
import uvicorn

from snaphold.api import KnownPeers, ObjectReader, create_app
from snaphold.api.connections import Bounds, Connections
from snaphold.api.document import DescribedAPI
from snaphold.engines.password_hashes import PASSWORD_HASHES
from snaphold.errors import Transient
from snaphold.facts import result_of
from snaphold.formats.backup_facts import facts_of, new_manifest
from snaphold.formats.manifest import DataFacts, DatastoreFacts, IndexFacts, Lineage, Manifest, Segment, sha256_of
from snaphold.formats.stored_backups import StoredBackups
from snaphold.identity.base import ADMIN, CREATOR, OBSERVER
from snaphold.identity.embedded import EmbeddedIdentity, open_embedded
from snaphold.model import Rate
from snaphold.objects import SEGMENT_SIZE
from snaphold.protocol import Task
from snaphold.service import limits
from snaphold.service.deployment import Peer, StoreGate
from snaphold.store.base import Stores
from snaphold.store.local import LocalStores
from tests.support.region import Region, a_result, open_region

FAULTS = {
    400: "badRequest",
    401: "unauthorized",
    403: "forbidden",
    404: "itemNotFound",
    405: "badMethod",
    409: "overtaken",
    413: "overLimit",
    415: "badMediaType",
    416: "requestedRangeNotSatisfiable",
    422: "unprocessableEntity",
    500: "instanceFault",
    501: "notImplemented",
    503: "serviceUnavailable",
}
DATA, INDEX = bytes(1 << 20), b"the index"  # of a backup that the host of the test has taken
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # reading the certificates of this machine takes its time
USERS = {  # user: account, roles
    "demo": ("1234", []),
    "other": ("9999", []),
    "admin": ("1234", [ADMIN]),
    "creator": ("1234", [CREATOR]),
    "observer": ("1234", [OBSERVER]),
}


class StoredObjects:
    """Reads a store, as the command line wires it."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores

    def size(self, account: str, name: str) -> int:
        """The object's length."""
        return self._stores.of(account).size(name)

    def get(self, account: str, name: str, start: int, length: int | None) -> Iterator[bytes]:
        """The object's bytes."""
        return self._stores.of(account).get(name, start, length)


@dataclass(frozen=True)
class Secrets:
    """The regions that may speak with each secret. Implements ``api.KnownPeers``."""

    known: Mapping[str, AbstractSet[str]]

    def regions_of(self, secret: str) -> AbstractSet[str]:
        """By the secret."""
        return self.known.get(secret, frozenset())


@dataclass
class Site:
    """What a test needs at hand. Every answer that passes through here is held to the rules for all answers."""

    region: Region
    identity: EmbeddedIdentity
    app: DescribedAPI
    url: str
    stores: LocalStores
    client: httpx.Client
    tokens: dict[str, str] = field(default_factory=dict)

    def send(self, method: str, path: str, **more: Any) -> httpx.Response:
        """Any request. Its answer must carry an id, and be JSON or empty where it is a refusal."""
        answer = self.client.request(method, path, **more)
        check_answer(answer)
        self._check_documented(method, answer)
        return answer

    def call(
        self, method: str, path: str, body: Any = None, *, user: str = "demo", account: str = "1234"
    ) -> httpx.Response:
        """A client's request below its account."""
        headers = {"X-Auth-Token": self.token(user)}
        return self.send(method, f"/v1.0/{account}{path}", json=body, headers=headers)

    def ok(self, method: str, path: str, body: Any = None, *, user: str = "demo", account: str = "1234") -> Any:
        """The answer's document to a request that must succeed."""
        answer = self.call(method, path, body, user=user, account=account)
        assert answer.status_code in {200, 202}, answer.text
        return answer.json() if answer.content else None

    def token(self, user: str) -> str:
        """A token of this user, who is added when first needed (without a password: hashing one takes its time)."""
        if user not in self.tokens:
            account, roles = USERS[user]
            key = self.identity.add_account(account, user, None, roles)["api_key"]
            body = {"auth": {"RAX-KSKEY:apiKeyCredentials": {"username": user, "apiKey": key}}}
            self.tokens[user] = self.send("POST", "/v2.0/tokens", json=body).json()["access"]["token"]["id"]
        return self.tokens[user]

    def agent(self, path: str, body: Any, *, token: str | None = None) -> httpx.Response:
        """What the host's agent says."""
        headers = {"Authorization": f"Bearer {token or self.region.token}"}
        return self.send("POST", f"/agent/v1/{path}", json=body, headers=headers)

    def claim(self, wait_s: float = 0) -> dict[str, Any]:
        """What the host is to do."""
        work = self.agent("claim", {"session": self.region.session, "wait_s": wait_s}).json()
        assert isinstance(work, dict)
        return work

    def work(self, *, ok: bool = True) -> dict[str, Any]:
        """The host does its next task, or fails at it; the task."""
        task = self.claim()["task"]
        assert task is not None
        report: dict[str, Any] = {"session": self.region.session, "attempt": task["attempt"], "ok": ok}
        if not ok:
            report["reason"] = "it was told to fail"
        elif task["backup"] is not None:
            report["backup"] = self.stored_backup(task)
        else:
            report["instance"] = {
                "address": (task["instance"] or {}).get("address", "127.77.0.1"),
                "port": 3306,
                "used_bytes": 1 << 30,
                "full_version": "10.11.19",
            }
        assert self.agent(f"tasks/{task['id']}/report", report).status_code == 200
        return dict(task)

    def stored_backup(self, task: Mapping[str, Any], **facts: Any) -> dict[str, Any]:
        """Put the objects of a backup into the store, as its host does, and return the host's report of it.

        ``facts``: fields of the manifest that differ from those of a plausible backup.
        """
        manifest = a_manifest_of(task).model_copy(update=facts)
        document = manifest.dump()
        store = self.stores.of(manifest.account)
        store.replace(manifest.data.name, DATA)
        store.replace(manifest.index.name, INDEX)
        store.replace(f"{manifest.id}.json", document)
        result = result_of(facts_of(manifest), sha256_of(document), from_lsn=manifest.lineage.from_lsn, proof=None)
        return result.model_dump()

    def instance(self, *, user: str = "demo", account: str = "1234", **more: Any) -> dict[str, Any]:
        """An ACTIVE instance."""
        body = {"instance": {"name": "db", "flavorRef": 1, "volume": {"size": 2}, **more}}
        made = self.ok("POST", "/instances", body, user=user, account=account)["instance"]
        self.work()
        return dict(self.ok("GET", f"/instances/{made['id']}", user=user, account=account)["instance"])

    def backup(self, instance_id: str, name: str = "b", *, user: str = "demo", account: str = "1234") -> dict[str, Any]:
        """A COMPLETED backup."""
        body = {"backup": {"name": name, "instance": instance_id}}
        made = self.ok("POST", "/backups", body, user=user, account=account)["backup"]
        self.work()
        return dict(self.ok("GET", f"/backups/{made['id']}", user=user, account=account)["backup"])

    def _check_documented(self, method: str, answer: httpx.Response) -> None:
        """Whatever a route answers, its entry in the document says so."""
        operation = operation_of(self.app.openapi(), method, answer.url.path)
        assert operation is None or str(answer.status_code) in operation["responses"], (method, answer.url.path)


class FailingGate:
    """A store that answers every check with the same exception."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def check(self, account: str, *, write: bool) -> None:
        """Fail."""
        del account, write
        raise self.error


class UnavailableStores:
    """Stores that do something else instead of answering: raise, or hang for a while."""

    def __init__(self, instead: Callable[[], object]) -> None:
        self._instead = instead

    def of(self, account: str) -> Any:
        """Do it."""
        del account
        self._instead()
        raise Transient("the store does not answer")


class FailingObjects:
    """A store that answers everything with the same exception."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def size(self, account: str, name: str) -> int:
        """Fail."""
        del account, name
        raise self.error

    def get(self, account: str, name: str, start: int, length: int | None) -> Iterator[bytes]:
        """Fail."""
        del account, name, start, length
        raise self.error


class AnsweringHost:
    """The host's agent, which keeps databases and users of instances in memory, and answers questions in a thread."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.databases: dict[str, dict[str, Any]] = {}
        self.users: dict[tuple[str, str], dict[str, Any]] = {}
        self.root: str | None = None
        self.refuse: tuple[str, str] | None = None
        self.lie: dict[str, Any] | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        with httpx.Client(base_url=self._site.url, timeout=60, verify=NO_TLS) as client:
            headers = {"Authorization": f"Bearer {self._site.region.token}"}
            session = self._site.region.session
            while not self._end.is_set():
                claim = {"session": session, "wait_s": 0.3, "accept_tasks": False}
                question = client.post("/agent/v1/claim", json=claim, headers=headers).json()["question"]
                if question is not None:
                    said = self._answer(question["kind"], question["payload"])
                    answer = {"session": session, **said}
                    if self.lie is not None:
                        answer["payload"] = self.lie
                    client.post(f"/agent/v1/questions/{question['id']}/answer", json=answer, headers=headers)

    def _answer(self, kind: str, payload: dict[str, Any]) -> dict[str, Any]:
        if self.refuse is not None:
            return {"ok": False, "error": self.refuse[0], "message": self.refuse[1]}
        match kind:
            case "list_databases":
                return {"ok": True, "payload": {"databases": list(self.databases.values())}}
            case "create_databases":
                self.databases.update({row["name"]: row for row in payload["databases"]})
            case "delete_database":
                del self.databases[payload["name"]]
            case "list_users":
                rows = [
                    {"name": name, "host": host, "databases": [{"name": each} for each in row["databases"]]}
                    for (name, host), row in self.users.items()
                ]
                return {"ok": True, "payload": {"users": rows}}
            case "create_users":
                self.users.update({(row["name"], row["host"]): row for row in payload["users"]})
            case "delete_user":
                del self.users[payload["name"], payload["host"]]
            case "show_root":
                return {"ok": True, "payload": {"enabled": self.root is not None}}
            case "enable_root" | "disable_root":
                self.root = payload.get("password_hash")
            case _:
                self._change(kind, payload)
        return {"ok": True}

    def _change(self, kind: str, payload: dict[str, Any]) -> None:
        """Change users and their rights."""
        if kind == "change_users":
            for change in payload["users"]:
                row = self.users.pop((change["name"], change["host"]))
                row["password_hash"] = change["password_hash"] or row["password_hash"]
                self.users[change["new_name"] or change["name"], change["new_host"] or change["host"]] = row
        elif kind == "grant":
            self.users[payload["name"], payload["host"]]["databases"] += payload["databases"]
        else:
            self.users[payload["name"], payload["host"]]["databases"].remove(payload["database"])


def check_answer(answer: httpx.Response) -> None:
    """Contract, section 8: an id on every answer; refusals in one form; Retry-After with 413 only."""
    assert re.fullmatch(r"req-[0-9a-f-]{36}", answer.headers["X-Compute-Request-Id"])
    assert "Retry-After" not in answer.headers or answer.status_code == 413
    if answer.status_code >= 400 and answer.request.method != "HEAD":
        assert answer.headers["Content-Type"] == "application/json"
        (name, body), *more = answer.json().items()
        assert (name, body["code"], more) == (FAULTS[answer.status_code], answer.status_code, [])
        assert isinstance(body["message"], str)
        assert body["message"]


def check_fault(answer: httpx.Response, code: int, message: str | None = None) -> None:
    """This refusal, with this message (a pattern)."""
    assert answer.status_code == code, answer.text
    if message is not None:
        assert re.fullmatch(message, answer.json()[FAULTS[code]]["message"]), answer.text


def operation_of(document: Mapping[str, Any], method: str, path: str) -> dict[str, Any] | None:
    """The document's entry of a request, None for unknown routes."""
    for template, operations in document["paths"].items():
        pattern = re.sub(r"\\{name\\}$", ".+", re.sub(r"\\{[a-z_]+\\}(?!$)", "[^/]+", re.escape(template)))
        pattern = re.sub(r"\\{[a-z_]+\\}", "[^/]+", pattern)
        if re.fullmatch(pattern, path) and method.lower() in operations:
            return dict(operations[method.lower()])
    return None


def a_result_of(task: Mapping[str, Any]) -> dict[str, Any]:
    """What a host says of a backup that it has taken."""
    return a_result(Task.model_validate(task)).model_dump()


def a_manifest_of(task: Mapping[str, Any]) -> Manifest:
    """The manifest of a backup that a host has taken, as ``a_result_of`` reports it."""
    spec = Task.model_validate(task).backup
    assert spec is not None
    sha256 = sha256_of(DATA)
    return new_manifest(
        spec,
        attempt=task["attempt"],
        parent_id=spec.parent_id,
        updated_us=1_767_323_045_000_000,
        made="taken",
        made_from=None,
        size_bytes=5 << 20,
        datastore=DatastoreFacts(
            type=spec.datastore,
            version=spec.version,
            version_id=spec.version_id,
            server_version="10.11.19",
            tool_version="10.11.19",
        ),
        lineage=Lineage(incarnation="i", from_lsn=None, checkpoint_lsn=100, to_lsn=200, last_lsn=200),
        stream_bytes=len(DATA),
        codec="gzip",
        level=1,
        data=DataFacts(name=f"{spec.id}.xbstream.gz", size_bytes=len(DATA)),
        index=IndexFacts(name=f"{spec.id}.index", size_bytes=len(INDEX), sha256=sha256_of(INDEX)),
        segment_size_bytes=SEGMENT_SIZE,
        segments=[Segment(size_bytes=len(DATA), sha256=sha256)],
    )


@contextmanager
def opened_site(
    directory: Path,
    *,
    gate: StoreGate | None = None,
    objects: ObjectReader | None = None,
    name: str = "DFW",
    peers: Mapping[str, Peer] = MappingProxyType({}),
    known_peers: KnownPeers | None = None,
    **settings: float | str,
) -> Iterator[Site]:
    """A site in this directory, with one host that has said hello, served on a free port."""
    plain_logs()
    region = open_region(directory, name=name, **settings)
    region.deployment = replace(region.deployment, peers=peers)
    if gate is not None:
        region.deployment = replace(region.deployment, store_gate=gate)
    logins = limits.allowed(region.deployment.settings, Rate.LOGINS)
    identity = open_embedded(directory, 3600, logins_per_minute=logins)
    stores = LocalStores(directory / "store")
    regions = {"DFW": "http://127.0.0.1:8779", "IAD": "http://127.0.0.1:8780"}
    fresh = create_app(
        region.deployment,
        identity,
        regions=regions,
        object_reader=objects or StoredObjects(stores),
        stored_backups=StoredBackups(stores),
        password_hashes=PASSWORD_HASHES,
        containers=stores.of,
        known_peers=known_peers,
    )
    app = _apps.pop() if _apps else fresh
    app.state.context = fresh.state.context
    with served(app) as url, httpx.Client(base_url=url, timeout=60, verify=NO_TLS) as client:
        yield Site(region=region, identity=identity, app=app, url=url, stores=stores, client=client)
    _apps.append(app)
    identity.close()
    region.deployment.catalog.close()


def plain_logs() -> None:
    """Log on standard output, tracebacks without the values of variables, as the service itself does."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(),
        ]
    )


class Door:
    """A server on a free port, which passes each request on to the application that stands behind it just now."""

    def __init__(self) -> None:
        self._app: Any = None
        self._under_way = 0
        self._changed = threading.Condition()
        started = threading.Event()

        class Server(uvicorn.Server):
            async def startup(self, sockets: Any = None) -> None:
                await super().startup(sockets)
                started.set()

        config = uvicorn.Config(
            self,
            host="127.0.0.1",
            port=0,
            http=Connections(Bounds(connections=1000, per_client=1000)).protocol,  # type: ignore[arg-type]
            ws="none",
            log_config=None,
            access_log=False,
            lifespan="off",
        )
        server = Server(config)
        threading.Thread(target=server.run, name="door", daemon=True).start()
        assert started.wait(20)
        self.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One request."""
        with self._changed:
            app = self._app
            self._under_way += 1
        try:
            await app(scope, receive, send)
        finally:
            with self._changed:
                self._under_way -= 1
                self._changed.notify_all()

    def stand_behind(self, app: Any) -> None:
        """Have this application answer, once the requests to the one before are answered. None: nobody."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._under_way == 0, timeout=60), "a request is never answered"
            self._app = app


# Kept for the whole test process: doors that nobody stands behind, and applications that nobody uses. What an
# application has of a region is its desk; its routes and its document, which are the same for all, take their time.
_doors: list[Door] = []
_apps: list[DescribedAPI] = []


@contextmanager
def served(app: Any) -> Iterator[str]:
    """Serve it on a free port of this machine; its address."""
    door = _doors.pop() if _doors else Door()
    door.stand_behind(app)
    try:
        yield door.url
    finally:
        door.stand_behind(None)
        _doors.append(door)


def routes_of(app: DescribedAPI, *, under: str, fill: Mapping[str, str] | None = None) -> Sequence[tuple[str, str]]:
    """(method, path) of every documented route below ``under``, its parameters filled in (else with an unknown id)."""
    unknown = str(uuid.uuid4())

    def filled(template: str) -> str:
        return re.sub(r"\{(\w+)\}", lambda found: (fill or {}).get(found[1], unknown), template)

    return [
        (method.upper(), filled(template))
        for template, operations in app.openapi()["paths"].items()
        if template.startswith(under)
        for method in operations
    ]


def poll(what: Callable[[], bool]) -> None:
    """Wait until it is so, at most 10 seconds."""
    waiting = threading.Event()
    for _ in range(200):
        if what():
            return
        waiting.wait(0.05)
    raise AssertionError("it did not happen within 10 seconds")
