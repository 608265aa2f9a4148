"""A route that writes its answer on the handler's own thread, without FastAPI's second check of it.

FastAPI passes an answer to another thread, which validates it once more before it writes it. That is half of the time
of a read. Here the types of answers are checked when the handler builds them, and that is enough.

Benchmark: the rows "shows a second" and "lists of 20 a second" of bench/results.md (``bench/api.py``).
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel

from snaphold.api.read_serializer import reads


class Route(APIRoute):
    """A route whose handler returns an instance of the schema in its annotation.

    A plain ``def`` handler of GET takes a turn in ``reads``. A coroutine takes none, nor does a handler that runs on
    threads of its own (``threads.on_threads_of``); a handler that waits for a host or a store must be one of these.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], *, status_code: int | None = None, **more: Any) -> None:
        if not inspect.iscoroutinefunction(endpoint):
            endpoint = _writing(endpoint, status_code or 200)
            if set(more.get("methods") or ["GET"]) == {"GET"}:
                endpoint = _in_turn(endpoint)
        super().__init__(path, endpoint, status_code=status_code, **more)


router_of = functools.partial(APIRouter, route_class=Route)


def _writing(handler: Callable[..., Any], status_code: int) -> Callable[..., Any]:
    """The same handler. If it returns a schema, that is written as JSON."""

    @functools.wraps(handler)
    def write(*args: Any, **kwargs: Any) -> Any:
        answer = handler(*args, **kwargs)
        if isinstance(answer, BaseModel):
            return Response(answer.model_dump_json(), status_code, media_type="application/json")
        return answer

    return write


def _in_turn(handler: Callable[..., Any]) -> Callable[..., Any]:
    """The same handler. It waits for a turn first."""

    @functools.wraps(handler)
    def wait_and_answer(*args: Any, **kwargs: Any) -> Any:
        with reads.next():
            return handler(*args, **kwargs)

    return wait_and_answer
