"""A peer's way to the objects of accounts' containers: the other end of ``snaphold.peers.store``.

A body is read into memory, a segment at most, and its hash is checked before anything is kept. What is allowed the
routes ask of the ``Access`` that they are built with.
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

from snaphold.api.context import Container, handing_on, on_threads_of
from snaphold.api.request_body import BodyOf
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
from snaphold.objects import SEGMENT_SIZE
from snaphold.protocol import Nothing, PeerDigest, PeerListing, PeerObject, PeerPublication

_MAX_MESSAGE_BYTES: Final = 1 << 20
_IDLE_S: Final = 30.0  # of silence in the middle of a body

on_objects_threads = on_threads_of(ThreadPoolExecutor(8, thread_name_prefix="peer-objects"))
handed_on = handing_on(on_objects_threads)


class Access(Protocol):
    """What the peer that asks may do."""

    @property
    def places(self) -> asyncio.Semaphore:
        """Bodies that are in memory at a time, of all peers together."""

    def reading(self, account: str, name: str) -> Container:
        """The account's container, to read this object. Raises ``Forbidden``."""

    def writing(self, account: str, name: str, number: int = 0) -> Container:
        """The account's container, to write, list or delete what is called so, or segment ``number`` under it.

        Raises ``Forbidden``.
        """


Account = Annotated[str, Path(max_length=200)]
Number = Annotated[int, Path(ge=0, lt=1 << 32)]
Start = Annotated[int, Query(ge=0, lt=1 << 63)]
Length = Annotated[int | None, Query(ge=0, lt=1 << 63)]


def container_routes(access_of: Callable[..., Access]) -> APIRouter:
    """The routes. ``access_of``: the dependency that knows the peer."""
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
        """Those whose names start so."""
        with _in_words():
            found = list(access.writing(account, prefix).list(prefix))
        objects = [PeerObject(name=one.name, size_bytes=one.size_bytes, modified_s=one.modified_s) for one in found]
        return PeerListing(objects=objects)

    @router.head("/objects/{name:path}", response_class=Response)
    @on_objects_threads
    def size_object(access: FromPeer, account: Account, name: str) -> Response:
        """Its length, as Content-Length."""
        with _in_words():
            size = access.reading(account, name).size(name)
        return Response(None, 200, {"Content-Length": str(size)})

    @router.get("/objects/{name:path}", response_class=StreamingResponse)
    @on_objects_threads
    def read_object(
        access: FromPeer, account: Account, name: str, start: Start = 0, length: Length = None
    ) -> StreamingResponse:
        """Its bytes, or a range of them."""
        with _in_words():
            pieces = access.reading(account, name).get(name, start, length)
            first = next(pieces, b"")
        # Of one moment's object, which may be replaced meanwhile: its length is not asked for apart.
        return StreamingResponse(handed_on(chain([first], pieces)), media_type="application/octet-stream")

    @router.put("/objects/{name:path}")
    async def put_object(
        request: Request, access: FromPeer, account: Account, name: str, *, replace: bool = False
    ) -> Nothing:
        """Keep the body under this name. 409: it is taken, and is not to be replaced."""

        @on_objects_threads
        def keep(body: Sequence[bytes]) -> None:
            with _in_words():
                container = access.writing(account, name)
                (container.replace if replace else container.put)(name, b"".join(body))

        await _checked(access, account, name)
        async with access.places:
            await keep(await _read(request))
        return Nothing()

    @router.delete("/objects/{name:path}")
    @on_objects_threads
    def delete_object(access: FromPeer, account: Account, name: str) -> Nothing:
        """Gone; gone already is no failure."""
        with _in_words():
            access.writing(account, name).delete(name)
        return Nothing()

    @router.get("/digests/{name:path}")
    @on_objects_threads
    def digest_object(
        access: FromPeer, account: Account, name: str, start: Start = 0, length: Length = None
    ) -> PeerDigest:
        """The hash of its bytes, or of a range of them."""
        with _in_words():
            return PeerDigest(sha256=access.reading(account, name).sha256(name, start, length))

    return router


def _routes_of_segments(access_of: Callable[..., Access]) -> APIRouter:
    router = APIRouter()
    FromPeer = Annotated[Access, Depends(access_of)]  # noqa: N806 - a type

    @router.put("/segments/{number}")
    async def put_segment(request: Request, access: FromPeer, account: Account, number: Number, prefix: str) -> Nothing:
        """Keep the body as segment ``number`` under the prefix."""

        @on_objects_threads
        def keep(body: Sequence[bytes]) -> None:
            with _in_words():
                access.writing(account, prefix, number).put_segment(prefix, number, body)

        await _checked(access, account, prefix, number)
        async with access.places:
            await keep(await _read(request))
        return Nothing()

    @router.get("/segments/{number}")
    @on_objects_threads
    def digest_segment(
        access: FromPeer,
        account: Account,
        number: Number,
        prefix: str,
        size_bytes: Annotated[int, Query(ge=0, lt=1 << 63)],
    ) -> PeerDigest:
        """The hash of a segment of exactly this size."""
        with _in_words():
            container = access.writing(account, prefix, number)
            return PeerDigest(sha256=container.segment_sha256(prefix, number, size_bytes))

    @router.post("/publications/{name:path}")
    @on_objects_threads
    def publish_object(
        access: FromPeer,
        account: Account,
        name: str,
        message: Annotated[PeerPublication, Depends(BodyOf(PeerPublication, _MAX_MESSAGE_BYTES))],
    ) -> Nothing:
        """Make segments an object of this name."""
        with _in_words():
            access.writing(account, message.prefix)
            container = access.writing(account, name)
            container.publish(name, message.prefix, message.count, size_bytes=message.size_bytes)
        return Nothing()

    return router


@on_objects_threads
def _checked(access: Access, account: str, name: str, number: int = 0) -> None:
    """Before a body is read."""
    with _in_words():
        access.writing(account, name, number)


async def _read(request: Request) -> list[bytes]:
    """The body, whose length and hash were told in front.

    Raises:
        OverLimit: larger than a segment.
        BadRequest: it does not tell its length and its hash.
        Unavailable: it is not what it said, or stopped coming.
    """
    declared = request.headers.get("content-length", "")
    if not (declared.isascii() and declared.isdigit()):
        raise BadRequest("The body does not tell its length.")
    if int(declared) > SEGMENT_SIZE:
        raise OverLimit(f"The body is larger than {SEGMENT_SIZE} bytes.")
    expected = _digest_in(request.headers.get("content-digest", ""))
    parts: list[bytes] = []
    sha256 = hashlib.sha256()
    stream = request.stream()
    try:
        while True:
            async with asyncio.timeout(_IDLE_S):
                part = await anext(stream, None)
            if part is None:
                break
            sha256.update(part)
            parts.append(part)
    except TimeoutError as error:
        raise Unavailable("The body stopped coming.") from error
    if not hmac.compare_digest(sha256.digest(), expected):
        raise Unavailable("The body is not what its hash says.")
    return [part for part in parts if part]


def _digest_in(header: str) -> bytes:
    """The SHA-256 of a ``Content-Digest``. Source: RFC 9530, section 2."""
    algorithm, _, value = header.partition("=")
    try:
        digest = base64.b64decode(value.removeprefix(":").removesuffix(":"), validate=True)
    except (binascii.Error, ValueError):
        digest = b""
    if algorithm != "sha-256" or len(digest) != hashlib.sha256().digest_size:
        raise BadRequest("The body does not tell its hash (Content-Digest: sha-256=:…:).")
    return digest


@contextmanager
def _in_words() -> Iterator[None]:
    """Turn what a store says into answers that ``snaphold.peers.store`` turns back."""
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
