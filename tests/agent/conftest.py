"""An agent as it is, in this process, against the real API on a real socket, over a line that a test can cut."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from snaphold.agent.agent import Agent
from snaphold.agent.context import TaskContext
from snaphold.agent.control import Control
from snaphold.agent.session import Region
from snaphold.config import Settings
from snaphold.host.servers import Servers
from snaphold.service.outcomes import reap
from snaphold.steps import Step, observers
from snaphold.store.local import LocalStores
from tests.api.site import Site, opened_site
from tests.api.site import served as served_app
from tests.support.instances import wait_for
from tests.support.servers import open_servers

LEASE_S: Final = 30.0  # by the test's own clock
RENEW_S: Final = 0.2


class Line:
    """The API over a bad line: answers get lost, or nothing gets through at all."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.cut = threading.Event()  # while it is set, every request fails before it arrives
        self.lose: Counter[str] = Counter()  # how many answers to paths with this end get lost
        self.arrived: Counter[str] = Counter()  # requests, by the last part of the path

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One request."""
        end = str(scope.get("path", "")).rsplit("/", 1)[-1]
        if scope["type"] == "http" and self.cut.is_set():
            await _fail(send)
        elif scope["type"] == "http" and self.lose[end] > 0:
            self.lose[end] -= 1
            self.arrived[end] += 1
            await self._app(scope, receive, _swallow)
            await _fail(send)
        else:
            self.arrived[end] += 1
            await self._app(scope, receive, send)


async def _swallow(_message: Any) -> None:
    pass


async def _fail(send: Any) -> None:
    await send({"type": "http.response.start", "status": 502, "headers": []})
    await send({"type": "http.response.body", "body": b""})


class Place:
    """A region, the line to it, and what an agent needs."""

    def __init__(self, site: Site, line: Line, url: str, directory: Path) -> None:
        self.site = site
        self.line = line
        self.directory = directory
        self.stores = LocalStores(directory / "store")
        (directory / "token").write_text(site.region.token, "ascii")
        self.control = Control(url, directory / "token")

    def give_up(self) -> int:
        """Let every lease run out and have the control plane notice, though one may be renewed in between."""
        for _ in range(100):
            self.site.region.clock.advance(LEASE_S + 1)
            if abandoned := reap(self.site.region.deployment):
                return abandoned
        raise AssertionError("no lease ran out")

    def objects(self) -> list[str]:
        """What is in the account's container."""
        return [info.name for info in self.stores.of("1234").list("")]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A region with an API, reached over a line that is good for now."""
    with opened_site(tmp_path, lease_s=LEASE_S, renew_s=RENEW_S) as site:
        line = Line(site.app)
        with served_app(line) as url:  # any ASGI application can be served
            yield Place(site, line, url, tmp_path)
            site.app.state.context.ending.set()  # long polls end now


@pytest.fixture
def when() -> Iterator[Callable[[Step, Callable[[], object]], None]]:
    """Have something happen as soon as this process reaches a step, once."""
    added: list[Callable[[Step], None]] = []

    def register(step: Step, what: Callable[[], object]) -> None:
        done = threading.Event()

        def observe(reached: Step) -> None:
            if reached == step and not done.is_set():
                done.set()
                what()

        added.append(observe)
        observers.append(observe)

    yield register
    for observer in added:
        observers.remove(observer)


@pytest.fixture
def servers(host_settings: Settings) -> Servers:
    """The database servers of the test's state directory."""
    return open_servers(host_settings)


class Running:
    """An agent at work."""

    def __init__(self, agent: Agent, stopping: threading.Event) -> None:
        self._agent = agent
        self._stopping = stopping

    def stop(self) -> None:
        """Tell it to stop; its attempts have been told when this returns."""
        self._stopping.set()
        wait_for(lambda: all(lease.stop.is_set() for lease in self._agent.tasks.leases()), "the leases to end")


@contextmanager
def running_agent(place: Place, servers: Servers, settings: Settings, **intervals_s: float) -> Iterator[Running]:
    """An agent at work. ``intervals_s``: see ``Agent``."""
    context = TaskContext(servers=servers, engines=servers.engines, stores=place.stores, settings=settings)
    region = Region(name="DFW", control=place.control, context=context)
    agent = Agent(settings=settings, regions=[region], servers=servers, accepts_shared=True, **intervals_s)
    stopping = threading.Event()
    thread = threading.Thread(target=agent.run, args=(stopping,))
    thread.start()
    try:
        yield Running(agent, stopping)
    finally:
        place.line.cut.clear()
        stopping.set()
        thread.join()
