"""Starts a service for a measurement, and calls its API."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx

SNAPHOLD: Final = Path(sys.executable).parent / "snaphold"
ACCOUNT: Final = "1234"
PASSWORD: Final = "bench"  # noqa: S105 - of a service that lives for one measurement
POLL_S: Final = 0.05  # more often, and asking would take a notable part of the machine
TIMEOUT_S: Final = 1800
RESUMED_S: Final = 5.0  # then its agent has said that it is there


class Service:
    """``snaphold serve`` in a directory of its own. A context manager: everything is gone afterwards.

    ``far``: with a second region, to which backups can be copied.
    """

    def __init__(self, parent: Path | None, *flags: str, far: bool = False) -> None:
        self.state_dir = Path(tempfile.mkdtemp(prefix="snaphold-bench-", dir=parent))
        self.state_dir.chmod(0o755)
        with socket.socket() as near, socket.socket() as away:
            for probe in (near, away):
                probe.bind(("127.0.0.1", 0))
            self.port, far_port = near.getsockname()[1], away.getsockname()[1]
        self._flags = [*flags, *(["--region", f"IAD=127.0.0.1:{far_port}"] if far else [])]
        self._far = f"http://127.0.0.1:{far_port}/v1.0/{ACCOUNT}"
        self._log = (self.state_dir / "serve.log").open("wb")
        self._api = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60)

    def __enter__(self) -> Self:
        state_dir = ["--state-dir", str(self.state_dir)]
        argv = [str(SNAPHOLD), "serve", *state_dir, "--region", f"DFW=127.0.0.1:{self.port}", *self._flags]
        self._process = subprocess.Popen(argv, stdout=self._log, stderr=self._log)
        self._wait_for(self._answers)
        account = ["account", "add", *state_dir, ACCOUNT, "--user", "bench", "--password", PASSWORD]
        subprocess.run([str(SNAPHOLD), *account], check=True, stdout=subprocess.DEVNULL)
        credentials = {"username": "bench", "password": PASSWORD}
        login = self._api.post("/v2.0/tokens", json={"auth": {"passwordCredentials": credentials}})
        self._api.headers["X-Auth-Token"] = login.raise_for_status().json()["access"]["token"]["id"]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._signal(signal.SIGCONT)
        subprocess.run([SNAPHOLD, "stop", "--state-dir", self.state_dir], check=False, stdout=subprocess.DEVNULL)
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(60)
        self._api.close()
        self._log.close()
        shutil.rmtree(self.state_dir, ignore_errors=True)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Meanwhile API, worker and agent get no processor, and look for no work; the database servers run on."""
        try:
            self._signal(signal.SIGSTOP)
            yield
        finally:
            self._signal(signal.SIGCONT)
            time.sleep(RESUMED_S)

    def _signal(self, number: int) -> None:
        """Signal ``serve``, which then starts no further process, and those that it has started."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)
            for pid in _children_of(self._process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)

    @property
    def token(self) -> str:
        """A token of the account."""
        return str(self._api.headers["X-Auth-Token"])

    def agent_cpu_s(self) -> float:
        """Processor seconds that the agent and the tools that it has run took so far."""
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (process / "cmdline").read_bytes().split(b"\0")
                if b"agent" in words and f"--state-dir={self.state_dir}".encode() in words:
                    fields = (process / "stat").read_text("ascii").rpartition(")")[2].split()
                    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
        raise RuntimeError("the agent does not run")

    def create(self, volume_gb: int, **more: Any) -> dict[str, Any]:
        """A new instance, once it is ACTIVE."""
        body = {"instance": {"name": "bench", "flavorRef": 2, "volume": {"size": volume_gb}, **more}}
        made = self._call("POST", "/instances", body)["instance"]
        return self._until(f"/instances/{made['id']}", "instance", "ACTIVE")

    def back_up(self, instance: dict[str, Any], parent_id: str | None = None) -> dict[str, Any]:
        """A backup, full or an increment, once it is COMPLETED."""
        wanted = {"name": "bench", "instance": instance["id"]} | ({"parent_id": parent_id} if parent_id else {})
        made = self._call("POST", "/backups", {"backup": wanted})["backup"]
        return self._until(f"/backups/{made['id']}", "backup", "COMPLETED")

    def copy(self, backup: dict[str, Any]) -> str:
        """Copy a backup to the other region; what it is there, once it is COMPLETED, for ``forget_copy``."""
        path = f"/backups/{backup['id']}"
        self._call("POST", f"{path}/action", {"copy-backup": {"target_backup_region": "IAD"}})
        found: list[dict[str, Any]] = []

        def there() -> bool:
            found[:] = self._call("GET", path)["backup"]["copies"]
            if found[-1]["status"] == "FAILED":
                raise RuntimeError(f"{path}: {found}")
            return bool(found[-1]["status"] == "COMPLETED")

        self._wait_for(there)
        return f"{self._far}/backups/{found[-1]['id']}"

    def forget_copy(self, copy: str) -> None:
        """Delete a copy, and wait until it is gone."""
        self._api.delete(copy).raise_for_status()
        self._wait_for(lambda: self._api.get(copy).status_code == httpx.codes.NOT_FOUND)

    @contextlib.contextmanager
    def backing_up(self, instance: dict[str, Any]) -> Iterator[None]:
        """Meanwhile one full backup of the instance is taken and deleted after the other."""
        enough = threading.Event()

        def work() -> None:
            while not enough.is_set():
                self.delete(f"/backups/{self.back_up(instance)['id']}")

        with ThreadPoolExecutor(1) as pool:
            working = pool.submit(work)
            try:
                yield
            finally:
                enough.set()
            working.result()

    def objects(self, ids: list[str]) -> list[Path]:
        """The data objects of these backups, in the store."""
        return [next((self.state_dir / "regions" / "DFW").rglob(f"{backup_id}.xbstream.gz")) for backup_id in ids]

    def delete(self, path: str) -> None:
        """Delete something, and wait until it is gone."""
        self._call("DELETE", path)
        self._wait_for(lambda: self._api.get(f"/v1.0/{ACCOUNT}{path}").status_code == httpx.codes.NOT_FOUND)

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        answer = self._api.request(method, f"/v1.0/{ACCOUNT}{path}", json=body)
        if answer.is_error:
            raise RuntimeError(f"{method} {path}: {answer.status_code} {answer.text}")
        return json.loads(answer.content) if answer.content else None

    def _until(self, path: str, root: str, wanted: str) -> dict[str, Any]:
        found: dict[str, Any] = {}

        def there() -> bool:
            found.update(self._call("GET", path)[root])
            if found["status"] in {"ERROR", "FAILED"}:
                raise RuntimeError(f"{path}: {found}")
            return bool(found["status"] == wanted)

        self._wait_for(there)
        return found

    def _answers(self) -> bool:
        if self._process.poll() is not None:
            raise RuntimeError((self.state_dir / "serve.log").read_text())
        try:
            return self._api.get("/").is_success
        except httpx.TransportError:
            return False

    @staticmethod
    def _wait_for(condition: Any) -> None:
        end = time.monotonic() + TIMEOUT_S
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError
            time.sleep(POLL_S)


def _children_of(parent: int) -> list[int]:
    """The processes that a process has started itself and that still run."""
    try:
        return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text("ascii").split()]
    except FileNotFoundError:  # it has ended
        return []
