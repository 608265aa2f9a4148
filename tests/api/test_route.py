"""Routes: plain reads have turns, and none waits for one that takes long."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx
from fastapi import FastAPI, Response

from snaphold.api.route import Turns, reads, router_of
from tests.api.site import NO_TLS, served


def test_one_behind_the_other() -> None:
    """However many come at once, no two are at it at a time."""
    turns, at_once, most = Turns(60), 0, 0

    def work(_: int) -> None:
        nonlocal at_once, most
        with turns.next():
            at_once += 1
            most = max(most, at_once)
            time.sleep(0.005)
            at_once -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(24)))
    assert (at_once, most) == (0, 1)


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
    """A plain handler of GET has one; what changes something, and what waits on no thread of all, has none."""

    def plain() -> Response:
        return Response(str(reads.taken))

    async def waiting() -> Response:
        return Response(str(reads.taken))

    router, app = router_of(), FastAPI()
    router.add_api_route("/", plain, methods=["GET"], response_class=Response)
    router.add_api_route("/", plain, methods=["POST"], response_class=Response)
    router.add_api_route("/waiting", waiting, methods=["GET"], response_class=Response)
    app.router.routes.extend(router.routes)
    with served(app) as url, httpx.Client(base_url=url, timeout=60, verify=NO_TLS) as client:
        assert [client.get("/").text, client.post("/").text, client.get("/waiting").text] == ["True", "False", "False"]
