"""Turns every refusal into a fault (contract, section 8): ``{"<fault>": {"code": N, "message": "..."}}``, always JSON.

Only a 413 has ``Retry-After``: some clients crash on it with any other code.
"""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from snaphold.errors import MethodNotAllowed, OverLimit, Refused, SnapholdError, Superseded, Unavailable
from snaphold.schemas.faults import MODELS, NAMES

_MEANINGS: Final[Mapping[int, str]] = {
    400: "Elements are missing, or have invalid values.",
    401: "The token is missing, unknown or expired.",
    403: "The token is valid, but does not allow this.",
    404: "The account has no such resource.",
    405: "The resource does not allow the method; `Allow` lists the methods that it allows.",
    409: "The attempt was abandoned: write nothing, and remove what was written.",
    413: "A request is too large, or there are too many; `retryAfter` says when to try again, if that helps.",
    415: "The body is not JSON.",
    416: "The range is outside of the object.",
    422: "The present state of the resource does not allow this.",
    500: "The service failed; its log has the details under the request id.",
    501: "The service does not offer this.",
    503: "A component does not answer; nothing was changed.",
}


def documented(*codes: int) -> dict[int | str, dict[str, Any]]:
    """The faults of a route, for its entry in the OpenAPI document."""
    return {code: {"model": MODELS[code], "description": _MEANINGS[code]} for code in codes}


def fault(code: int, message: str, *, retry_after_s: int | None = None, allow: str | None = None) -> JSONResponse:
    """The answer with this fault."""
    body: dict[str, Any] = {"code": code, "message": message}
    headers = {}
    if allow is not None:
        headers["Allow"] = allow
    if retry_after_s is not None:
        body["retryAfter"] = retry_after_s
        headers["Retry-After"] = str(retry_after_s)
    return JSONResponse({NAMES[code]: body}, code, headers)


def fault_of(error: SnapholdError) -> JSONResponse:
    """The answer to a request that raised ``error``. Raises the error if it is not a refusal."""
    match error:
        case OverLimit():
            return fault(error.code, str(error), retry_after_s=error.retry_after_s)
        case MethodNotAllowed():
            return fault(error.code, str(error), allow=error.allow)
        case Refused() | Unavailable():
            return fault(error.code, str(error))
        case Superseded():
            return fault(409, str(error))
        case _:
            raise error


def answer_faults(app: FastAPI) -> None:
    """Make the application answer every refusal with a fault, unknown routes and wrong methods included."""
    methods_of = _method_finder(app)

    async def refused(_request: Request, error: Exception) -> JSONResponse:
        if not isinstance(error, SnapholdError):
            raise error
        return fault_of(error)

    async def not_routed(request: Request, error: Exception) -> JSONResponse:
        if not isinstance(error, HTTPException):
            raise error
        if error.status_code == 405:
            return fault(405, f"{request.method} is not allowed here.", allow=methods_of(request.scope["path"]))
        if error.status_code == 404:
            return fault(404, "The resource could not be found.")
        code = error.status_code if error.status_code in NAMES else 400
        return fault(code, str(error.detail))

    async def not_valid(_request: Request, error: Exception) -> JSONResponse:
        if not isinstance(error, RequestValidationError):
            raise error
        wrong = ".".join(str(step) for step in error.errors()[0]["loc"])
        return fault(400, f"{wrong} is missing or invalid")

    handler = Callable[[Request, Exception], Awaitable[JSONResponse]]
    handlers: Sequence[tuple[type[Exception], handler]] = [
        (Refused, refused),
        (Unavailable, refused),
        (Superseded, refused),
        (HTTPException, not_routed),
        (RequestValidationError, not_valid),
    ]
    for kind, answer in handlers:
        app.add_exception_handler(kind, answer)


def _method_finder(app: FastAPI) -> Callable[[str], str]:
    """A function that lists the methods of a path, whose routes have one method each."""
    known: MutableMapping[str, tuple[Callable[[str], object], set[str]]] = {}

    def methods_of(path: str) -> str:
        if not known:
            for route in iter_route_contexts(app.routes):
                if route.path is not None and route.methods:
                    known.setdefault(route.path, (compile_path(route.path)[0].match, set()))[1].update(route.methods)
        fitting = [methods for fits, methods in known.values() if fits(path)]
        return ", ".join(sorted(set().union(*fitting))) or "GET, HEAD"

    return methods_of
