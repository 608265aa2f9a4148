"""How a route answers: the handler's thread writes the body too."""

import functools
import inspect
import threading
from collections.abc import Callable
from typing import Any, Final

from fastapi import APIRouter, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel

TURN_S: Final = 0.05  # what a read has for itself
_reading = threading.Lock()


class Route(APIRoute):
    """A route whose handler returns what its annotation promises, checked when it was made.

    The framework would hand an answer to another thread, to be checked once more before it is written: half of the
    time that a read takes.
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
    """The same handler of a read, which begins when the one before it has ended, or has had its time.

    Side by side they would hand on the interpreter's lock at each row that they read: a list took a third more
    processor time beside three others.
    """

    @functools.wraps(handler)
    def wait_and_answer(*args: Any, **kwargs: Any) -> Any:
        alone = _reading.acquire(timeout=TURN_S)
        try:
            return handler(*args, **kwargs)
        finally:
            if alone:
                _reading.release()

    return wait_and_answer
