"""Routes: reads one behind the other, none behind one that does not end."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from fastapi import FastAPI, Response

from snaphold.api import route
from tests.api.site import NO_TLS, served
from tests.support.instances import wait_for


class Reads:
    """What reads are under way. ``go_on``: they end then."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()

    def read(self, seconds: float) -> Response:
        """A read that takes so long, at most."""
        with self._lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        self.go_on.wait(seconds)
        with self._lock:
            self.at_once -= 1
        return Response()


@pytest.fixture
def reads() -> Reads:
    """What reads are under way."""
    return Reads()


@pytest.fixture
def client(reads: Reads) -> Iterator[httpx.Client]:
    """An application whose reads are these."""
    router, app = route.router_of(), FastAPI()
    router.add_api_route("/read/{seconds}", reads.read, methods=["GET"], response_class=Response)
    router.add_api_route("/write/{seconds}", reads.read, methods=["POST"], response_class=Response)
    app.include_router(router)
    with served(app) as url, httpx.Client(base_url=url, timeout=60, verify=NO_TLS) as client:
        yield client


def test_reads_are_answered_one_behind_the_other(
    client: httpx.Client, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many ask at once, no two short reads are under way at a time; each is answered."""
    monkeypatch.setattr(route, "TURN_S", 60)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.get("/read/0.01").status_code, range(24)))
    assert answers == [200] * 24
    assert reads.most_at_once == 1


def test_no_read_waits_for_one_that_does_not_end(client: httpx.Client, reads: Reads) -> None:
    """Another read is answered while one goes on; what comes behind both is too."""
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(client.get, "/read/60")
        wait_for(lambda: reads.at_once == 1, "the slow read")
        assert client.get("/read/0").status_code == 200
        assert not slow.done()
        reads.go_on.set()
        assert slow.result().status_code == 200
    assert client.get("/read/0").status_code == 200


def test_writes_wait_for_no_read(client: httpx.Client, reads: Reads, monkeypatch: pytest.MonkeyPatch) -> None:
    """What changes something has no turn to wait for."""
    monkeypatch.setattr(route, "TURN_S", 60)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(client.get, "/read/60")
        wait_for(lambda: reads.at_once == 1, "the slow read")
        assert client.post("/write/0").status_code == 200
        assert not slow.done()
        reads.go_on.set()
        slow.result()
