"""How a route answers: the handler's thread writes the body too, and reads are answered in turn."""

import functools
import inspect
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from fastapi import APIRouter, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel

_MOST_TURNS: Final = 20  # that somebody waits for


class ReadSerializer:
    """Has threads do something one behind the other, but lets nobody wait behind one that takes long.

    ``seconds``: what each has for itself. Once it is over the others go beside it, without a turn of their own.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._begun_s = math.inf  # of the one whose turn it is; nobody's has begun

    @contextmanager
    def next(self) -> Iterator[None]:
        """Wait for a turn while those before have time left; the body is done in it, or beside one that has none."""
        mine = self._take()
        try:
            yield
        finally:
            if mine:
                self._begun_s = math.inf
                self._lock.release()

    def _take(self) -> bool:
        for _ in range(_MOST_TURNS):  # a lock may pass somebody over
            left_s = min(self._seconds, self._begun_s + self._seconds - time.monotonic())
            if self._lock.acquire(timeout=max(0.0, left_s)):
                self._begun_s = time.monotonic()
                return True
            if time.monotonic() >= self._begun_s + self._seconds:
                return False
        return False


reads: Final = ReadSerializer(0.05)


class Route(APIRoute):
    """A route whose handler returns what its annotation promises, checked when it was made.

    The framework would hand an answer to another thread, to be checked once more before it is written: half of the
    time that a read takes.

    A plain ``def`` handler of GET has its turn in ``reads``; a coroutine, or one that runs on threads of its own
    (``desk.on_threads_of``), has none, and what waits for a host or a store must be such.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], *, status_code: int | None = None, **more: Any) -> None:
        if not inspect.iscoroutinefunction(endpoint):
            endpoint = _writing(endpoint, status_code or 200)
            if set(more.get("methods") or ["GET"]) == {"GET"}:
                endpoint = _in_turn(endpoint)
        super().__init__(path, endpoint, status_code=status_code, **more)


router_of = functools.partial(APIRouter, route_class=Route)


def _writing(handler: Callable[..., Any], status_code: int) -> Callable[..., Any]:
    """The same handler, with a model that it returns written as JSON."""

    @functools.wraps(handler)
    def write(*args: Any, **kwargs: Any) -> Any:
        answer = handler(*args, **kwargs)
        if isinstance(answer, BaseModel):
            return Response(answer.model_dump_json(), status_code, media_type="application/json")
        return answer

    return write


def _in_turn(handler: Callable[..., Any]) -> Callable[..., Any]:
    """The same handler, in its turn.

    Side by side reads would hand on the interpreter's lock at each row: a list took a third more processor time
    beside three others.
    """

    @functools.wraps(handler)
    def wait_and_answer(*args: Any, **kwargs: Any) -> Any:
        with reads.next():
            return handler(*args, **kwargs)

    return wait_and_answer
