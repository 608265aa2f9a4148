"""Routes: reads are answered one after the other, and nothing waits for one that takes long."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import pairwise

import httpx
import pytest
from fastapi import FastAPI, Response

from snaphold.api.read_serializer import ReadSerializer
from snaphold.api.route import router_of
from snaphold.api.threads import on_threads_of
from tests.api.site import NO_TLS, served


class Work:
    """What several do in their turns. ``most``: how many were at it at once."""

    def __init__(self, turns: ReadSerializer) -> None:
        self._turns = turns
        self._lock = threading.Lock()
        self.begun = threading.Event()
        self.at_once = self.most = 0

    def do(self, seconds: float) -> None:
        """Take a turn, and so long for it."""
        with self._turns.next():
            with self._lock:
                self.at_once += 1
                self.most = max(self.most, self.at_once)
            self.begun.set()
            threading.Event().wait(seconds)
            with self._lock:
                self.at_once -= 1


def test_one_behind_the_other() -> None:
    """However many come at once, no two are at it at a time."""
    work = Work(ReadSerializer(60))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work.do, [0.005] * 24))
    assert (work.at_once, work.most) == (0, 1)


def test_nobody_waits_for_one_that_does_not_end() -> None:
    """While one goes on for ever, all the others together wait for its time, not each of them."""
    turns, begun, go_on = ReadSerializer(0.2), threading.Event(), threading.Event()

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


def test_a_turn_has_its_time_whenever_it_begins() -> None:
    """Who waits for one that ends in time waits for the next one too, and goes beside neither."""
    turns = ReadSerializer(2)
    work = Work(turns)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(work.do, 1.5)
        assert work.begun.wait(10)
        threading.Event().wait(1)
        for done in [first, *(pool.submit(work.do, 0.7) for _ in range(3))]:
            done.result()
    assert work.most == 1


def test_a_failure_ends_a_turn() -> None:
    """The next one has its turn at once."""
    turns = ReadSerializer(60)
    with suppress(LookupError), turns.next():
        raise LookupError
    begun_s = time.monotonic()
    with turns.next():
        pass
    assert time.monotonic() - begun_s < 10


class Meeting:
    """Handlers that are done when two requests are at them at once, and a read that goes on until it is told to end."""

    def __init__(self) -> None:
        self._barrier = threading.Barrier(2)
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.spans: list[tuple[float, float]] = []  # when each read began and ended

    def meet(self) -> Response:
        """Wait for another request."""
        self._barrier.wait(30)
        return Response("met")

    async def see(self) -> Response:
        """Wait for nobody."""
        return Response("seen")

    def hold(self) -> Response:
        """Be under way until ``go_on``."""
        self.begun.set()
        self.go_on.wait(60)
        return Response("held")

    def answer(self) -> Response:
        """Read for 2 ms, as most do."""
        begun_s = time.monotonic()
        threading.Event().wait(0.002)
        self.spans.append((begun_s, time.monotonic()))
        return Response("read")


@contextmanager
def meeting() -> Iterator[tuple[Meeting, httpx.Client]]:
    """Its handlers, served, and a client for several threads."""
    meeting, app = Meeting(), FastAPI()
    router = router_of()
    router.add_api_route("/change", meeting.meet, methods=["POST"], response_class=Response)
    router.add_api_route("/coroutine", meeting.see, methods=["GET"], response_class=Response)
    router.add_api_route("/held", meeting.hold, methods=["GET"], response_class=Response)
    router.add_api_route("/read", meeting.answer, methods=["GET"], response_class=Response)
    with (
        ThreadPoolExecutor(4) as pool,
        served(app) as url,
        httpx.Client(base_url=url, timeout=60, verify=NO_TLS) as client,
    ):
        apart = on_threads_of(pool)(meeting.meet)
        router.add_api_route("/apart", apart, methods=["GET"], response_class=Response)
        app.router.routes.extend(router.routes)
        yield meeting, client


def test_reads_are_answered_one_after_the_other() -> None:
    """Of reads that come at once none begins during another, but for one that a busy machine has held up for long."""
    with meeting() as (reads, client), ThreadPoolExecutor(8) as callers:
        assert set(callers.map(lambda _: client.get("/read").text, range(48))) == {"read"}
    spans = sorted(reads.spans)
    beside = [(first, second) for first, second in pairwise(spans) if second[0] < first[1] < first[0] + 0.025]
    assert (len(spans), beside) == (48, [])


@pytest.mark.parametrize(("method", "path"), [("POST", "/change"), ("GET", "/apart")])
def test_what_is_answered_side_by_side(method: str, path: str) -> None:
    """Two requests that change something, or whose handler runs on threads of its own, are under way at once."""
    with meeting() as (_, client), ThreadPoolExecutor(2) as callers:
        answers = list(callers.map(lambda _: client.request(method, path).text, range(2)))
    assert answers == ["met", "met"]


def test_a_read_that_takes_long_holds_up_nobody() -> None:
    """While one read goes on, other reads, coroutines and changes are answered."""
    with meeting() as (meeting_, client), ThreadPoolExecutor(3) as callers:
        held = callers.submit(client.get, "/held")
        try:
            assert meeting_.begun.wait(30)
            changes = [callers.submit(client.post, "/change") for _ in range(2)]
            answers = [
                client.get("/read").text,
                client.get("/coroutine").text,
                *(each.result().text for each in changes),
            ]
            assert not held.done()
        finally:
            meeting_.go_on.set()
    assert answers == ["read", "seen", "met", "met"]
    assert held.result().text == "held"
