"""A service that is struck: stopped at a named step (snaphold.steps), one of its processes killed -9, and looked over.

Each step is struck with one victim in the ordinary run; which one changes with the day. ``make torture`` strikes each
step with every victim, at the default leases. FAULT_SEED (a date, or any text) chooses other victims.
"""

import os
import signal
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import httpx
import pymysql
import pytest

from snaphold.steps import Step
from tests.scenarios.served import ACCOUNT, Served, alive, eventually, kill, query
from tests.support.pauses import Pauses

WITHIN_S: Final = 60  # promise 6
SEED: Final = os.environ.get("FAULT_SEED", datetime.now(UTC).date().isoformat())
QUICK_LEASES: Final = ("--lease-s=6", "--renew-s=2")  # the same rule as the default, sooner
_AGENT: Final = "\0-m\0snaphold\0agent"
_CONTROL: Final = "\0-m\0snaphold\0api"


def steps_of(kind: str) -> list[Step]:
    """The steps of one kind of work, in their order."""
    return [step for step in Step if step.startswith(f"{kind}.")]


def struck(victims: Mapping[Step, Sequence[str]]) -> list[Any]:
    """Parameters (step, victim): each step with the victim of the day, and for ``make torture`` with every one."""
    # The day's number is added, so that all victims of a step have their turn on successive days.
    number = zlib.crc32(SEED.encode())
    with suppress(ValueError):
        number = datetime.fromisoformat(SEED).toordinal()
    of_the_day = [
        (step, those[(number + zlib.crc32(step.encode())) % len(those)], "") for step, those in victims.items()
    ]
    every = [(step, victim, "torture-") for step, those in victims.items() for victim in those]
    return [
        pytest.param(step, victim, id=f"{prefix}{step}-{victim}", marks=pytest.mark.torture if prefix else ())
        for step, victim, prefix in [*of_the_day, *every]
    ]


def with_victims(kind: str, everywhere: Sequence[str], more: Mapping[Step, Sequence[str]]) -> dict[Step, list[str]]:
    """Who can be killed at each step of a kind of work."""
    return {step: [*everywhere, *more.get(step, ())] for step in steps_of(kind)}


class Place:
    """A service with an instance that stays, ``source``, and a backup of it, ``good``."""

    def __init__(self, service: Served, pauses: Pauses) -> None:
        self.service = service
        self.pauses = pauses
        self.source = service.instance()
        query(self.source, "CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(200)) ENGINE=InnoDB")
        query(self.source, "INSERT INTO t VALUES (%s, %s)", [(n, "x" * (n % 150)) for n in range(5000)])
        self.expected = query(self.source, "CHECKSUM TABLE t")
        self.good = service.backup(self.source)
        self._deadline = time.monotonic()

    def strike(self, victim: str, instance_id: str, then: Step | None = None) -> None:
        """Kill -9 the victim while somebody waits at the step; let what lives go on; start the service if need be.

        ``then``: the step to wait at next.
        """
        waiting = self.pauses.reached()
        match victim:
            case "agent":
                kill(self.service.process_of(_AGENT))
            case "control":
                kill(self.service.process_of(_CONTROL))
            case "supervisor":
                self.service.end(signal.SIGKILL)
            case "tool":
                kill(self.service.process_of("--backup", instance_id))
            case "server":
                kill(self.service.process_of("mariadbd", "--datadir", instance_id))
            case _:
                raise AssertionError(victim)
        if then is None:
            self.pauses.over()
        else:
            self.pauses.at(then)
        if victim == "supervisor":
            eventually(lambda: not alive(waiting), "who waited to die with the supervisor")
            eventually(lambda: not self.service.processes("\0-m\0snaphold\0"), "all to die with the supervisor")
            self.service.start()
        self._deadline = time.monotonic() + WITHIN_S

    def soon(self, look: Any, what: str) -> Any:
        """What there is to see, once it is there: not later than a minute after the strike."""
        return eventually(look, what, self._deadline - time.monotonic())

    def answers(self, instance: Any) -> bool:
        """Whether an instance answers a query."""
        with suppress(pymysql.Error):
            return query(instance, "SELECT 1") == ((1,),)
        return False

    def accepts(self, path: str, body: object) -> bool:
        """Whether a POST is accepted now."""
        with suppress(httpx.TransportError):
            return self.service.call("POST", path, body).status_code == 202
        return False

    def named(self, kind: str, name: str) -> Any:
        """The one backup or instance of this name."""

        def rows() -> Any:
            with suppress(httpx.TransportError):  # whoever was asked may just have been killed
                return list(self._rows(kind))
            return None

        (row,) = (row for row in self.soon(rows, "an answer") if row["name"] == name)
        return row

    def answer(self, path: str) -> httpx.Response | None:
        """The answer to a GET; None while nobody answers."""
        with suppress(httpx.TransportError):
            found = self.service.call("GET", path)
            return found if found.status_code in {200, 404} else None
        return None

    def ends(self, path: str, *statuses: str) -> Any:
        """The thing at ``path`` once it has one of these statuses, or None once it is gone."""

        def look() -> tuple[Any] | None:
            answer = self.answer(path)
            if answer is None:
                return None
            if answer.status_code == 404:
                return (None,)
            (thing,) = answer.json().values()
            return (thing,) if thing["status"] in statuses else None

        try:
            return self.soon(look, f"{path} to be one of {statuses}")[0]
        except AssertionError as error:
            error.add_note(self.service.tail())
            raise

    def forget(self, *paths: str) -> None:
        """Delete things, and see them gone."""
        for path in paths:
            self.service.ok("DELETE", path)
        for path in paths:
            assert self.ends(path) is None

    def is_sound(self) -> None:
        """The instance that stays is ACTIVE with its data, can be backed up, and nothing is left of what was struck."""
        self.ends(f"/instances/{self.source['id']}", "ACTIVE")

        def intact() -> bool:
            return self.answers(self.source) and query(self.source, "CHECKSUM TABLE t") == self.expected

        self.soon(intact, "the instance to answer with its data")
        self.soon(lambda: self.service.accepts_a_backup(self.source), "a new backup")
        left: list[str] = []

        def nothing_left() -> bool:
            left[:] = self.left_over()
            return not left

        try:
            self.soon(nothing_left, "everything to be cleared away")
        except AssertionError as error:
            error.add_note(f"left: {left}\n{self.service.tail()}")
            raise

    def left_over(self) -> list[str]:
        """What is in the store, on the host and among the processes without a record that wants it; or is missing."""
        backups = {row["id"]: row["status"] for row in self._rows("backups")}
        instances = {row["id"] for row in self._rows("instances") if row["status"] == "ACTIVE"}
        return [
            *self._objects_beside({name for name, status in backups.items() if status == "COMPLETED"}),
            *self._directories_beside(instances),
            *self._processes_beside(instances),
        ]

    def _rows(self, kind: str) -> Iterable[Any]:
        """All backups or instances, over all pages."""
        marker = ""
        while True:
            page = self.service.ok("GET", f"/{kind}?limit=100{marker}")[kind]
            yield from page
            if len(page) < 100:
                return
            marker = f"&marker={page[-1]['id']}"

    def _objects_beside(self, backups: set[str]) -> Iterator[str]:
        container = self.service.state_dir / "regions" / "DFW" / "store" / ACCOUNT / "z_CLOUDDB_BACKUPS"
        there = {str(path.relative_to(container)) for path in container.rglob("*")}
        wanted = {f"{name}{end}" for name in backups for end in (".json", ".index", ".proof.json", ".xbstream.gz")}
        return (f"object {name}" for name in there ^ wanted)

    def _directories_beside(self, instances: set[str]) -> Iterator[str]:
        root = self.service.state_dir / "instances"
        yield from (f"directory {name}" for name in {path.name for path in root.iterdir()} ^ instances)
        for pattern in ("*/restore.*", "*/.tmp.*", "*/prepare.log", "*/scratch/*"):
            yield from (str(path.relative_to(root)) for path in root.glob(pattern))

    def _processes_beside(self, instances: set[str]) -> Iterator[str]:
        root = self.service.state_dir / "instances"
        serving = dict.fromkeys(instances, 0)
        for process in self.service.processes():
            with suppress(OSError):
                program, *words = Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace").split("\0")
                owner = next((name for name in instances if f"--datadir={root / name / 'data'}" in words), None)
                if owner is not None and program.endswith("mariadbd"):
                    serving[owner] += 1
                elif "snaphold" not in words[:3]:  # -P -m snaphold, where the supervisor started it
                    yield f"process {process} {program} {words}"
        yield from (f"{count} servers of {name}" for name, count in serving.items() if count != 1)


@contextmanager
def opened_place(state_dir: Path, network: str, config: pytest.Config) -> Iterator[Place]:
    """A place in this directory; with quick leases, but for ``make torture``."""
    leases = () if config.option.markexpr == "torture" else QUICK_LEASES
    pauses = Pauses(state_dir / "pauses")
    service = Served(state_dir, network, *leases)
    service.environment = pauses.environment
    try:
        service.start()
        yield Place(service, pauses)
    finally:
        if service.process is not None and service.process.poll() is None:
            service.end()
