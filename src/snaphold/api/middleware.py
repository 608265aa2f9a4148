"""What happens to every request before and behind its route: its id, its path's suffix, the fault of last resort."""

import re
import uuid
from typing import Final

import structlog
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from snaphold.api.faults import fault

log = structlog.get_logger()

REQUEST_ID: Final = "X-Compute-Request-Id"
_SUFFIXED: Final = re.compile(r"(?P<path>/v(?:1\.0|2\.0|3)/.+)\.json")  # as older clients end their paths
_TOKEN: Final = re.compile(r"^/v2\.0/tokens/.+", re.DOTALL)
# The last part of these is a name that somebody has chosen: it may really end so.
_NAMED: Final = re.compile(r"/v1\.0/[^/]+/instances/[^/]+/(?:users/[^/]+/)?(?:databases|users)/[^/]+")


class RequestMiddleware:
    """The outermost part of the application.

    1. Every answer carries ``X-Compute-Request-Id``; so does every line that is logged on the way.
    2. ``.json`` at a path's end is dropped, where it cannot be part of a name.
    3. What nobody has caught is logged, and answered 500 without a word of what it was.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
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
                log.debug("request.abandoned", method=scope["method"], path=without_secret(scope["path"]))
            except Exception:
                log.exception("request.failed", method=scope["method"], path=without_secret(scope["path"]))
                if started:
                    raise  # the connection is cut: a short answer must not look like a whole one
                answer = fault(500, f"The service has failed to answer. Its log has the details under {request_id}.")
                await answer(scope, receive, send_with_id)


def without_secret(path: str) -> str:
    """The path as it may be logged: a token that stands in it is left out."""
    return _TOKEN.sub("/v2.0/tokens/***", path)


def without_suffix(path: str) -> str:
    """The path without the ``.json`` that it ends in, where that cannot be part of a name."""
    suffixed = _SUFFIXED.fullmatch(path)
    return path if suffixed is None or _NAMED.fullmatch(path) else suffixed["path"]
