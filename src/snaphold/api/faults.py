"""Every refusal as the contract's section 8 has it: ``{"<fault>": {"code": N, "message": "..."}}``, always JSON.

``Retry-After`` goes out with 413 only: real clients crash on it with any other code.
"""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel, create_model
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from snaphold.errors import MethodNotAllowed, OverLimit, Refused, SnapholdError, Superseded, Unavailable

NAMES: Final[Mapping[int, str]] = {
    400: "badRequest",
    401: "unauthorized",
    403: "forbidden",
    404: "itemNotFound",
    405: "badMethod",
    409: "overtaken",
    413: "overLimit",
    415: "badMediaType",
    416: "requestedRangeNotSatisfiable",
    422: "unprocessableEntity",
    500: "instanceFault",
    501: "notImplemented",
    503: "serviceUnavailable",
}
_MEANINGS: Final[Mapping[int, str]] = {
    400: "Elements are missing, or the values of some are invalid.",
    401: "No token, an unknown one, or an expired one.",
    403: "The token is good, but not for this.",
    404: "There is no such thing in this account.",
    405: "The method is not allowed for this resource; Allow lists those that are.",
    409: "The attempt was given up: write nothing, remove what was written.",
    413: "Too large, too many, or too often; retryAfter says when to try again, where that helps.",
    415: "The body is not JSON.",
    416: "The range is not within the object.",
    422: "It cannot be done in the present state of things.",
    500: "The service has failed; its log has the details under the request id.",
    501: "The service does not offer this.",
    503: "A part that must answer is silent; nothing was changed.",
}


class FaultBody(BaseModel):
    """What went wrong, for people."""

    code: int
    message: str


class OverLimitBody(FaultBody):
    """What is too much. ``retryAfter``: seconds until it may work; absent where waiting does not help."""

    retryAfter: int | None = None  # noqa: N815 - the contract's name


_MODELS: Final[Mapping[int, type[BaseModel]]] = {
    code: create_model(
        f"{name[0].upper()}{name[1:]}Fault",
        **{name: (OverLimitBody if code == 413 else FaultBody, ...)},  # type: ignore[call-overload]
    )
    for code, name in NAMES.items()
}


def documented(*codes: int) -> dict[int | str, dict[str, Any]]:
    """The faults of a route, for its entry in the OpenAPI document."""
    return {code: {"model": _MODELS[code], "description": _MEANINGS[code]} for code in codes}


def fault(code: int, message: str, *, retry_after_s: int | None = None, allow: str | None = None) -> JSONResponse:
    """The answer that says so."""
    body: dict[str, Any] = {"code": code, "message": message}
    headers = {}
    if allow is not None:
        headers["Allow"] = allow
    if retry_after_s is not None:
        body["retryAfter"] = retry_after_s
        headers["Retry-After"] = str(retry_after_s)
    return JSONResponse({NAMES[code]: body}, code, headers)


def fault_of(error: SnapholdError) -> JSONResponse:
    """The answer to a request that raised ``error``; what nobody expected at the edge is an ``instanceFault``."""
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
    """Have every refusal of this application answered that way, unknown routes and wrong methods included."""
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
    """A function that lists the methods of a path: a path's routes are several, each with a method of its own."""
    known: MutableMapping[str, tuple[Callable[[str], object], set[str]]] = {}

    def methods_of(path: str) -> str:
        if not known:
            for route in iter_route_contexts(app.routes):
                if route.path is not None and route.methods:
                    known.setdefault(route.path, (compile_path(route.path)[0].match, set()))[1].update(route.methods)
        fitting = [methods for fits, methods in known.values() if fits(path)]
        return ", ".join(sorted(set().union(*fitting))) or "GET, HEAD"

    return methods_of
