"""Gives every request an id, removes ``.json`` from its path, and turns an unexpected exception into a 500."""

import re
import uuid
from typing import Final

import structlog
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from snaphold.api.faults import fault

_log = structlog.get_logger(__name__)

REQUEST_ID: Final = "X-Compute-Request-Id"
_SUFFIXED: Final = re.compile(r"(?P<path>/v(?:1\.0|2\.0|3)/.+)\.json")  # older clients add it
_TOKEN: Final = re.compile(r"^/v2\.0/tokens/.+", re.DOTALL)
# The last part of these paths is a name that a client chose, which may end in .json.
_NAMED: Final = re.compile(r"/v1\.0/[^/]+/instances/[^/]+/(?:users/[^/]+/)?(?:databases|users)/[^/]+")


class RequestMiddleware:
    """The outermost part of the application.

    1. Every answer has the header ``X-Compute-Request-Id``, and so does every log event of the request.
    2. ``.json`` is removed from a path's end, unless it may be part of a name.
    3. An exception that nothing has caught is logged. The answer is a 500 that says nothing about it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = f"req-{uuid.uuid4()}"
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        scope["path"] = without_suffix(scope["path"])
        with structlog.contextvars.bound_contextvars(request=request_id):
            try:
                if "\0" in scope["path"]:
                    await fault(404, "The resource could not be found.")(scope, receive, send_with_id)
                else:
                    await self._app(scope, receive, send_with_id)
            except ClientDisconnect:
                _log.debug("request.abandoned", method=scope["method"], path=without_secret(scope["path"]))
            except Exception:
                _log.exception("request.failed", method=scope["method"], path=without_secret(scope["path"]))
                if started:
                    raise  # closes the connection, so that the client notices that the answer is incomplete
                answer = fault(500, f"The service has failed to answer. Its log has the details under {request_id}.")
                await answer(scope, receive, send_with_id)


def without_secret(path: str) -> str:
    """The path as it may be logged: without the token in it."""
    return _TOKEN.sub("/v2.0/tokens/***", path)


def without_suffix(path: str) -> str:
    """The path without ``.json`` at its end, unless it may be part of a name."""
    suffixed = _SUFFIXED.fullmatch(path)
    return path if suffixed is None or _NAMED.fullmatch(path) else suffixed["path"]
