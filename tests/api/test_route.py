"""Routes: plain reads have turns, and none waits for one that takes long."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx
from fastapi import FastAPI, Response

from snaphold.api.desk import on_threads_of
from snaphold.api.route import Turns, reads, router_of
from tests.api.site import NO_TLS, served
from tests.support.instances import wait_for


class Work:
    """What several do in their turns. ``most``: how many were at it at once."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._lock = threading.Lock()
        self.at_once = self.most = 0

    def do(self, seconds: float) -> None:
        """Take a turn, and so long for it."""
        with self._turns.next():
            with self._lock:
                self.at_once += 1
                self.most = max(self.most, self.at_once)
            threading.Event().wait(seconds)
            with self._lock:
                self.at_once -= 1


def test_one_behind_the_other() -> None:
    """However many come at once, no two are at it at a time."""
    work = Work(Turns(60))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work.do, [0.005] * 24))
    assert (work.at_once, work.most) == (0, 1)


def test_nobody_waits_for_one_that_does_not_end() -> None:
    """While one goes on for ever, all the others together wait for its time, not each of them."""
    turns, begun, go_on = Turns(0.2), threading.Event(), threading.Event()

    def go_on_for_long() -> None:
        with turns.next():
            begun.set()
            go_on.wait(60)

    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(go_on_for_long)
        try:
            assert begun.wait(10)
            begun_s = time.monotonic()
            for _ in range(20):
                with turns.next():
                    assert not slow.done()
            assert time.monotonic() - begun_s < 2
        finally:
            go_on.set()
    assert not turns.taken


def test_a_turn_has_its_time_whenever_it_begins() -> None:
    """Who waits for one that ends in time waits for the next one too, and goes beside neither."""
    turns = Turns(2)
    work = Work(turns)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(work.do, 1.5)
        wait_for(lambda: turns.taken, "the first turn")
        threading.Event().wait(1)
        for done in [first, *(pool.submit(work.do, 0.7) for _ in range(3))]:
            done.result()
    assert work.most == 1


def test_a_failure_ends_a_turn() -> None:
    """The next one has its turn at once."""
    turns = Turns(60)
    with suppress(LookupError), turns.next():
        raise LookupError
    begun_s = time.monotonic()
    with turns.next():
        assert turns.taken
    assert time.monotonic() - begun_s < 10


def test_which_handlers_have_turns() -> None:
    """A plain handler of GET has one; what changes something, a coroutine, or threads of their own, have none."""

    def plain() -> Response:
        return Response(str(reads.taken))

    async def waiting() -> Response:
        return Response(str(reads.taken))

    router, app = router_of(), FastAPI()
    router.add_api_route("/", plain, methods=["GET"], response_class=Response)
    router.add_api_route("/", plain, methods=["POST"], response_class=Response)
    router.add_api_route("/waiting", waiting, methods=["GET"], response_class=Response)
    with (
        ThreadPoolExecutor(1) as pool,
        served(app) as url,
        httpx.Client(base_url=url, timeout=60, verify=NO_TLS) as client,
    ):
        router.add_api_route("/apart", on_threads_of(pool)(plain), methods=["GET"], response_class=Response)
        app.router.routes.extend(router.routes)
        assert client.get("/").text == "True"
        assert {client.post("/").text, client.get("/waiting").text, client.get("/apart").text} == {"False"}
