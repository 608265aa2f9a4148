"""Routes of the objects in accounts' containers, for peers: the server of ``snaphold.peers.store``.

A body, at most a segment, is read into memory, and its hash is checked before anything is stored. The ``Access`` that
the routes are built with decides what a peer may do.
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain
from typing import Annotated, Final, Protocol

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import StreamingResponse

from snaphold.api.request_body import BodyOf
from snaphold.api.stores import Container
from snaphold.api.threads import on_threads_of, streaming_on
from snaphold.errors import (
    BadRequest,
    Damaged,
    NotFound,
    ObjectExists,
    ObjectMissing,
    OverLimit,
    Permanent,
    Superseded,
    Transient,
    Unavailable,
    Unprocessable,
)
from snaphold.objects import MAX_SEGMENT_SIZE, SEGMENT_SIZE
from snaphold.protocol import Nothing, PeerDigest, PeerListing, PeerObject, PeerPublication

_MAX_MESSAGE_BYTES: Final = 1 << 20
_MAX_IDLE_S: Final = 30.0  # between two parts of a body

on_objects_threads = on_threads_of(ThreadPoolExecutor(8, thread_name_prefix="peer-objects"))
streamed = streaming_on(on_objects_threads)


class Access(Protocol):
    """What the calling peer may do."""

    @property
    def bodies(self) -> asyncio.Semaphore:
        """Limits the bodies that are in memory at a time, of all peers together."""

    def reading(self, account: str, name: str) -> Container:
        """The account's container, to read this object. Raises ``Forbidden``."""

    def writing(self, account: str, name: str, number: int = 0) -> Container:
        """The account's container, to write, list or delete objects of this name, or segment ``number`` below it.

        Raises ``Forbidden``.
        """


Account = Annotated[str, Path(max_length=200)]
Number = Annotated[int, Path(ge=0, lt=1 << 32)]
Start = Annotated[int, Query(ge=0, lt=1 << 63)]
Length = Annotated[int | None, Query(ge=0, lt=1 << 63)]
SegmentSize = Annotated[int, Query(ge=1, le=MAX_SEGMENT_SIZE)]


def container_routes(access_of: Callable[..., Access]) -> APIRouter:
    """The routes. ``access_of``: the dependency that authenticates the peer."""
    router = APIRouter(prefix="/accounts/{account}")
    router.include_router(_routes_of_objects(access_of))
    router.include_router(_routes_of_segments(access_of))
    return router


def _routes_of_objects(access_of: Callable[..., Access]) -> APIRouter:
    router = APIRouter()
    FromPeer = Annotated[Access, Depends(access_of)]  # noqa: N806 - a type

    @router.get("/objects")
    @on_objects_threads
    def list_objects(access: FromPeer, account: Account, prefix: str) -> PeerListing:
        """List the objects whose names start with the prefix."""
        with _as_refusals():
            found = list(access.writing(account, prefix).list(prefix))
        objects = [PeerObject(name=one.name, size_bytes=one.size_bytes, modified_s=one.modified_s) for one in found]
        return PeerListing(objects=objects)

    @router.head("/objects/{name:path}", response_class=Response)
    @on_objects_threads
    def size_object(access: FromPeer, account: Account, name: str) -> Response:
        """Answer with the object's length as ``Content-Length``."""
        with _as_refusals():
            size = access.reading(account, name).size(name)
        return Response(None, 200, {"Content-Length": str(size)})

    @router.get("/objects/{name:path}", response_class=StreamingResponse)
    @on_objects_threads
    def read_object(
        access: FromPeer, account: Account, name: str, start: Start = 0, length: Length = None
    ) -> StreamingResponse:
        """Read the object, or a range of it."""
        with _as_refusals():
            pieces = access.reading(account, name).get(name, start, length)
            first = next(pieces, b"")
        # The length is not asked for separately: the object might be replaced between the two requests.
        return StreamingResponse(streamed(chain([first], pieces)), media_type="application/octet-stream")

    @router.put("/objects/{name:path}")
    async def put_object(
        request: Request, access: FromPeer, account: Account, name: str, *, replace: bool = False
    ) -> Nothing:
        """Store the body as an object. 409: the object exists, and ``replace`` is false."""

        @on_objects_threads
        def store(body: Sequence[bytes]) -> None:
            with _as_refusals():
                container = access.writing(account, name)
                (container.replace if replace else container.put)(name, b"".join(body))

        await _check(access, account, name)
        async with access.bodies:
            await store(await _read(request))
        return Nothing()

    @router.delete("/objects/{name:path}")
    @on_objects_threads
    def delete_object(access: FromPeer, account: Account, name: str) -> Nothing:
        """Delete the object. A missing object is no failure."""
        with _as_refusals():
            access.writing(account, name).delete(name)
        return Nothing()

    @router.get("/digests/{name:path}")
    @on_objects_threads
    def digest_object(
        access: FromPeer, account: Account, name: str, start: Start = 0, length: Length = None
    ) -> PeerDigest:
        """Answer with the hash of the object, or of a range of it."""
        with _as_refusals():
            return PeerDigest(sha256=access.reading(account, name).sha256(name, start, length))

    return router


def _routes_of_segments(access_of: Callable[..., Access]) -> APIRouter:
    router = APIRouter()
    FromPeer = Annotated[Access, Depends(access_of)]  # noqa: N806 - a type

    @router.put("/segments/{number}")
    async def put_segment(
        request: Request,
        access: FromPeer,
        account: Account,
        number: Number,
        prefix: str,
        *,
        segment_size: SegmentSize = SEGMENT_SIZE,
    ) -> Nothing:
        """Store the body as segment ``number`` below the prefix."""

        @on_objects_threads
        def store(body: Sequence[bytes]) -> None:
            with _as_refusals():
                access.writing(account, prefix, number).put_segment(prefix, number, body, segment_size=segment_size)

        await _check(access, account, prefix, number)
        async with access.bodies:
            await store(await _read(request))
        return Nothing()

    @router.get("/segments/{number}")
    @on_objects_threads
    def digest_segment(
        access: FromPeer,
        account: Account,
        number: Number,
        prefix: str,
        size_bytes: Annotated[int, Query(ge=0, lt=1 << 63)],
        *,
        segment_size: SegmentSize = SEGMENT_SIZE,
    ) -> PeerDigest:
        """Answer with the hash of a segment of exactly this size."""
        with _as_refusals():
            container = access.writing(account, prefix, number)
            return PeerDigest(sha256=container.segment_sha256(prefix, number, size_bytes, segment_size=segment_size))

    @router.post("/publications/{name:path}")
    @on_objects_threads
    def publish_object(
        access: FromPeer,
        account: Account,
        name: str,
        message: Annotated[PeerPublication, Depends(BodyOf(PeerPublication, _MAX_MESSAGE_BYTES))],
    ) -> Nothing:
        """Join segments into an object."""
        with _as_refusals():
            access.writing(account, message.prefix)
            container = access.writing(account, name)
            container.publish(
                name,
                message.prefix,
                message.count,
                size_bytes=message.size_bytes,
                segment_size=message.segment_size,
            )
        return Nothing()

    return router


@on_objects_threads
def _check(access: Access, account: str, name: str, number: int = 0) -> None:
    """Check that the peer may write this, before its body is read. Raises ``Forbidden``."""
    with _as_refusals():
        access.writing(account, name, number)


async def _read(request: Request) -> list[bytes]:
    """The body. The header has its length and its hash.

    Raises:
        OverLimit: the body is larger than a segment.
        BadRequest: the header lacks the length or the hash.
        Unavailable: the body does not match its hash, or stopped arriving.
    """
    declared = request.headers.get("content-length", "")
    if not (declared.isascii() and declared.isdigit()):
        raise BadRequest("The request has no Content-Length.")
    if int(declared) > MAX_SEGMENT_SIZE:
        raise OverLimit(f"The body is larger than {MAX_SEGMENT_SIZE} bytes.")
    expected = _digest_in(request.headers.get("content-digest", ""))
    parts: list[bytes] = []
    sha256 = hashlib.sha256()
    stream = request.stream()
    try:
        while True:
            async with asyncio.timeout(_MAX_IDLE_S):
                part = await anext(stream, None)
            if part is None:
                break
            sha256.update(part)
            parts.append(part)
    except TimeoutError as error:
        raise Unavailable("The body stopped arriving.") from error
    if not hmac.compare_digest(sha256.digest(), expected):
        raise Unavailable("The body does not match its Content-Digest.")
    return [part for part in parts if part]


def _digest_in(header: str) -> bytes:
    """The SHA-256 of a ``Content-Digest``. Source: RFC 9530, section 2."""
    algorithm, _, value = header.partition("=")
    try:
        digest = base64.b64decode(value.removeprefix(":").removesuffix(":"), validate=True)
    except (binascii.Error, ValueError):
        digest = b""
    if algorithm != "sha-256" or len(digest) != hashlib.sha256().digest_size:
        raise BadRequest("The request has no SHA-256 of its body (Content-Digest: sha-256=:…:).")
    return digest


@contextmanager
def _as_refusals() -> Iterator[None]:
    """Turn a store's errors into refusals, which ``snaphold.peers.store`` turns back."""
    try:
        yield
    except ObjectMissing as error:
        raise NotFound(str(error)) from error
    except ObjectExists as error:
        raise Superseded(str(error)) from error
    except Damaged as error:
        raise Unprocessable(str(error)) from error
    except Permanent as error:
        raise BadRequest(str(error)) from error
    except Transient as error:
        raise Unavailable(str(error)) from error
