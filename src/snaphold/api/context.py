"""What the routes need at hand, and who is calling: the token first, then the account, then the right."""

import asyncio
import contextvars
import functools
import hashlib
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Annotated, Final, Generic, ParamSpec, Protocol, TypeVar

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader
from starlette.concurrency import run_in_threadpool

from snaphold.api.links import Links
from snaphold.errors import Forbidden, Unauthorized
from snaphold.identity.base import Caller, Identity, Right
from snaphold.objects import ObjectInfo
from snaphold.service import limits
from snaphold.service.deployment import Deployment

T = TypeVar("T")
P = ParamSpec("P")
_REMEMBERED_S: Final = 5.0
_REMEMBERED_MAX: Final = 10_000
_BODIES_OF_PEERS: Final = 4  # in memory at a time, each a segment at most
_RIGHTS: Final = {"GET": Right.READ, "HEAD": Right.READ, "DELETE": Right.DELETE}
_NEEDED: Final = {Right.READ: "read", Right.WRITE: "make changes", Right.DELETE: "delete"}


class ObjectReader(Protocol):
    """Reads the objects of accounts' containers; ``cli`` wires the store to it.

    Both methods may raise ``Transient`` (the store is silent), ``Permanent`` (it refuses) and ``ObjectMissing``.
    """

    def size(self, account: str, name: str) -> int:
        """The object's length in bytes."""

    def get(self, account: str, name: str, start: int, length: int | None) -> Iterator[bytes]:
        """The object's bytes from ``start`` on, ``length`` of them or all, in pieces."""


class Container(Protocol):
    """One account's objects, as peers use them; ``cli`` wires the store to it, whose own text says what each does."""

    def put_segment(self, prefix: str, number: int, data: Sequence[bytes | memoryview]) -> None:
        """Keep a segment."""

    def segment_sha256(self, prefix: str, number: int, size_bytes: int) -> str:
        """The hash of a segment."""

    def publish(self, name: str, prefix: str, count: int, *, size_bytes: int) -> None:
        """Make segments an object."""

    def put(self, name: str, data: bytes) -> None:
        """Keep a small object."""

    def replace(self, name: str, data: bytes) -> None:
        """Keep a small object in the place of another."""

    def get(self, name: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """An object's bytes."""

    def sha256(self, name: str, start: int = 0, length: int | None = None) -> str:
        """The hash of them."""

    def size(self, name: str) -> int:
        """An object's length."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """The objects whose names start so."""

    def delete(self, name: str) -> None:
        """Remove an object."""


class KnownPeers(Protocol):
    """The regions that this one is joined with; ``cli`` reads their secrets."""

    def regions_of(self, secret: str) -> AbstractSet[str]:
        """Those that have this secret; none: it is nobody's. It takes as long for a wrong one as for a right one."""


class Remembered(Generic[T]):
    """What tokens stood for a few seconds ago, by their hashes, so that not each request asks the backend.

    All is forgotten as soon as the backend's version is another one: a token that was ended is refused at once.
    """

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[float, T]] = {}
        self._version: object = None

    async def get(self, token: str, version: object, ask: Callable[[], Awaitable[T]]) -> T:
        """What this token stands for, in this version of the backend, read before; a refusal is not remembered."""
        if version != self._version:
            self._known.clear()
            self._version = version
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        until, known = self._known.get(digest, (0.0, None))
        if known is not None and time.monotonic() < until:
            return known
        fresh = await ask()
        if len(self._known) >= _REMEMBERED_MAX:
            self._known.clear()
        if version == self._version:  # else it was asked before the change that has been seen since
            self._known[digest] = (time.monotonic() + _REMEMBERED_S, fresh)
        return fresh


@dataclass(frozen=True, kw_only=True)
class RequestContext:
    """One region's application. ``regions``: each region's name and endpoint. ``ending``: long polls end now."""

    deployment: Deployment
    identity: Identity
    objects: ObjectReader
    regions: Mapping[str, str]
    links: Links
    ending: threading.Event
    containers: Callable[[str], Container]
    known_peers: KnownPeers | None = None
    places: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_BODIES_OF_PEERS))
    callers: Remembered[Caller] = field(default_factory=Remembered)


@dataclass(frozen=True, kw_only=True)
class Call:
    """A request of a known caller for its own account, who has the right to make it."""

    deployment: Deployment
    caller: Caller
    links: Links

    @property
    def account(self) -> str:
        """The caller's, and the path's."""
        return self.caller.account


def context_of(request: Request) -> RequestContext:
    """The desk that ``create_app`` set up."""
    context = request.app.state.context
    if not isinstance(context, RequestContext):
        raise TypeError("the application was not made by create_app")
    return context


Context = Annotated[RequestContext, Depends(context_of)]
Token = Annotated[str | None, Security(APIKeyHeader(name="X-Auth-Token", auto_error=False, scheme_name="token"))]


async def caller_of(context: RequestContext, token: str | None) -> Caller:
    """Who a token speaks for. Raises ``Unauthorized`` for none, an unknown or an expired one."""
    if not token:
        raise Unauthorized("The request carries no X-Auth-Token.")
    version = context.identity.version()
    return await context.callers.get(token, version, lambda: run_in_threadpool(context.identity.validate, token))


async def calling(request: Request, account: str, token: Token) -> Call:
    """The caller of a route below ``/v1.0/{account}``.

    Raises:
        Unauthorized: no good token.
        Forbidden: another account's, or without the right that the method needs.
        OverLimit: one read too many, where reads are limited.
    """
    context = context_of(request)
    caller = await caller_of(context, token)
    check_account(caller, account)
    check_right(caller, request.method)
    if context.deployment.settings.reads_per_minute and request.method in {"GET", "HEAD"}:
        await run_in_threadpool(limits.count_read, context.deployment, account)
    return Call(deployment=context.deployment, caller=caller, links=context.links)


Calling = Annotated[Call, Depends(calling)]


def check_account(caller: Caller, account: str) -> None:
    """Raises ``Forbidden`` when the path is another account's."""
    if caller.account != account:
        raise Forbidden(f"User with tenant id {caller.account} cannot access this resource.")


def check_right(caller: Caller, method: str) -> None:
    """Raises ``Forbidden`` when the caller's roles do not give what the method needs."""
    right = _RIGHTS.get(method, Right.WRITE)
    if not caller.may(right):
        raise Forbidden(f"The roles of user {caller.user} do not allow to {_NEEDED[right]}.")


def handing_on(
    on_threads: Callable[
        [Callable[[Iterator[bytes]], bytes | None]], Callable[[Iterator[bytes]], Awaitable[bytes | None]]
    ],
) -> Callable[[Iterator[bytes]], AsyncIterator[bytes]]:
    """A way to stream a body whose pieces are read on these threads (``on_threads_of``), each when it is wanted."""

    @on_threads
    def next_of(pieces: Iterator[bytes]) -> bytes | None:
        return next(pieces, None)

    async def hand_on(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
        while (piece := await next_of(pieces)) is not None:
            yield piece

    return hand_on


def on_threads_of(pool: Executor) -> Callable[[Callable[P, T]], Callable[P, Awaitable[T]]]:
    """Have a plain handler run on this pool's threads instead of those that all the other handlers share.

    For handlers that wait: they must take no thread that others need. Those that wait for a host: host_calls.py.
    """

    def decorate(handler: Callable[P, T]) -> Callable[P, Awaitable[T]]:
        @functools.wraps(handler)
        async def run(*args: P.args, **kwargs: P.kwargs) -> T:
            call = functools.partial(contextvars.copy_context().run, handler, *args, **kwargs)
            return await asyncio.get_running_loop().run_in_executor(pool, call)

        return run

    return decorate
