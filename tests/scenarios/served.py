"""The whole service as an operator starts it and a client sees it: ``snaphold serve`` and its HTTP API."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx
import pymysql

from snaphold.identity.embedded import open_embedded

ACCOUNT: Final = "1234"
PASSWORD: Final = "pw1"
_Seen = TypeVar("_Seen")


def snaphold(*words: str | Path) -> list[str]:
    """The argument list of a command."""
    return [sys.executable, "-m", "snaphold", *map(str, words)]


def free_port() -> int:
    """A port of the loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(look: Callable[[], _Seen], what: str, timeout_s: float = 60) -> _Seen:
    """Look until there is something to see; that."""
    deadline = time.monotonic() + timeout_s
    while not (seen := look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s:g} s in vain for {what}")
        time.sleep(0.05)
    return seen


class Served:
    """A running service on a state directory, with one account, whose token is used for every call."""

    def __init__(self, state_dir: Path, network: str, *flags: str, regions: tuple[str, ...] = ("DFW",)) -> None:
        self.state_dir = state_dir
        self.log = state_dir / "serve.log"
        self.ports = {region: free_port() for region in regions}
        self.words = snaphold(
            "serve",
            "--state-dir",
            state_dir,
            "--instance-networks",
            network,
            *(f"--region={region}=127.0.0.1:{port}" for region, port in self.ports.items()),
            *flags,
        )
        self.environment: Mapping[str, str] = os.environ
        self.process: subprocess.Popen[bytes] | None = None
        self.token: str | None = None
        first = f"http://127.0.0.1:{self.ports[regions[0]]}"
        # What finds nobody listening was not sent, and a process that was killed is back in a moment.
        patient = httpx.HTTPTransport(retries=5)
        self._http = httpx.Client(base_url=first, timeout=60, trust_env=False, transport=patient)

    def start(self) -> None:
        """Start the service and wait until every region answers; the first time, add the account too.

        And the first time until every region has a host, for then tests ask for an instance at once.
        """
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=self.environment,
            )
        for port in self.ports.values():
            eventually(lambda port=port: self._answers(port), f"an answer on port {port}")  # type: ignore[misc]
        if self.token is None:
            with closing(open_embedded(self.state_dir, token_lifetime_s=3600)) as identity:
                identity.add_account(ACCOUNT, "demo", "secret", [])
            auth = {"passwordCredentials": {"username": "demo", "password": "secret"}, "tenantName": ACCOUNT}
            answer = self._http.post("/v2.0/tokens", json={"auth": auth})
            self.token = answer.json()["access"]["token"]["id"]
            for region in self.ports:
                eventually(lambda region=region: self._has_host(region), f"a host in region {region}")  # type: ignore[misc]

    def end(self, number: signal.Signals = signal.SIGTERM, timeout_s: float = 20) -> int:
        """Send the supervisor a signal and wait for its end; the exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(timeout_s)

    def call(self, method: str, path: str, body: object = None, *, region: str | None = None) -> httpx.Response:
        """One request of the account, to this region (None: the first one)."""
        headers = {"X-Auth-Token": self.token or ""}
        base = "" if region is None else f"http://127.0.0.1:{self.ports[region]}"
        return self._http.request(method, f"{base}/v1.0/{ACCOUNT}{path}", json=body, headers=headers)

    def ok(self, method: str, path: str, body: object = None, *, region: str | None = None) -> Any:
        """The answer to a request that must be accepted."""
        answer = self.call(method, path, body, region=region)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}\n{self.tail()}"
        return answer.json() if answer.content else None

    def reaches(self, path: str, status: str, timeout_s: float = 60) -> Any:
        """The thing at ``path`` once it has this status."""

        def look() -> Any:
            with suppress(httpx.TransportError):
                (thing,) = self.ok("GET", path).values()
                if thing["status"] == status:
                    return thing
                assert thing["status"] not in {"ERROR", "FAILED"}, f"{path}: {json.dumps(thing)}\n{self.tail()}"
            return None

        return eventually(look, f"{path} to be {status}", timeout_s)

    def instance(self, **more: object) -> Any:
        """A new instance with the database ``shop`` and its user ``app``, ACTIVE."""
        databases = [{"name": "shop"}]
        wanted: dict[str, object] = {"name": "db", "flavorRef": 1, "volume": {"size": 1}}
        if "restorePoint" not in more:
            user = {"name": "app", "password": PASSWORD, "databases": databases}
            wanted |= {"databases": databases, "users": [user]}
        made = self.ok("POST", "/instances", {"instance": wanted | more})["instance"]
        return self.reaches(f"/instances/{made['id']}", "ACTIVE")

    def backup(self, instance: Any) -> Any:
        """A full backup, COMPLETED."""
        made = self.ok("POST", "/backups", {"backup": {"name": "b", "instance": instance["id"]}})["backup"]
        return self.reaches(f"/backups/{made['id']}", "COMPLETED")

    def accepts_a_backup(self, instance: Any) -> bool:
        """Whether a backup can be asked for just now; then it is COMPLETED too when this returns."""
        with suppress(httpx.TransportError):
            answer = self.call("POST", "/backups", {"backup": {"name": "b", "instance": instance["id"]}})
            if answer.status_code == 202:
                self.reaches(f"/backups/{answer.json()['backup']['id']}", "COMPLETED")
                return True
        return False

    def processes(self, *words: str) -> list[int]:
        """The processes of this service (database servers too) with all of these on their command line."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                line = (entry / "cmdline").read_bytes().decode(errors="replace")
                if str(self.state_dir) in line and all(word in line for word in words):
                    found.append(int(entry.name))
        return found

    def process_of(self, *words: str) -> int:
        """The one process with these on its command line, once there is one."""
        (process,) = eventually(lambda: self.processes(*words), f"a process {words}")
        return process

    def tail(self) -> str:
        """The end of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-30:])

    def objects_of(self, backup: Any) -> list[Path]:
        """Whatever in a store carries a backup's id: objects, segments, temporary files."""
        return [path for path in (self.state_dir / "regions").rglob("*") if backup["id"] in str(path)]

    def _has_host(self, region: str) -> bool:
        return bool(self.ok("GET", "/datastores", region=region)["datastores"])

    @staticmethod
    def _answers(port: int) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        return False


@contextmanager
def served(state_dir: Path, network: str, *flags: str, regions: tuple[str, ...] = ("DFW",)) -> Iterator[Served]:
    """A running service; ended afterwards. Its database servers are ended by the fixture of the state directory."""
    service = Served(state_dir, network, *flags, regions=regions)
    try:
        service.start()
        yield service
    finally:
        if service.process is not None and service.process.poll() is None:
            service.end()


def connected(instance: Any) -> "pymysql.Connection[pymysql.cursors.Cursor]":
    """A connection to an instance as its user ``app``, with the password that it was created with."""
    return pymysql.connect(
        host=instance["ip"][0],
        port=instance.get("port", 3306),
        user="app",
        password=PASSWORD,
        database="shop",
        autocommit=True,
    )


def query(instance: Any, statement: str, many: list[tuple[object, ...]] | None = None) -> tuple[tuple[Any, ...], ...]:
    """Run SQL on an instance as its user ``app``."""
    with connected(instance) as connection, connection.cursor() as cursor:
        if many is None:
            cursor.execute(statement)
        else:
            cursor.executemany(statement, many)
        return tuple(cursor.fetchall())


def alive(process: int) -> bool:
    """Whether a process is there, and no zombie."""
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_bytes().rsplit(b")", 1)[1].split()[0] != b"Z"
    return False


def kill(process: int) -> None:
    """``kill -9``."""
    os.kill(process, signal.SIGKILL)
