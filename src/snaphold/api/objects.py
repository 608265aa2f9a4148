"""The route of ``locationRef``: it serves the bytes of an account's own objects, as an object store does.

It runs on threads of its own and within a time limit, so that a store that does not answer delays no other request.

Sources: OpenStack Object Storage API, "Get object content and metadata"; RFC 9110, section 14 (ranges).
"""

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Annotated, Any, Final, TypeVar

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import StreamingResponse

from snaphold.api.authorization import Token, caller_of, check_account, check_right
from snaphold.api.faults import documented, fault
from snaphold.api.links import STORAGE_PREFIX
from snaphold.api.request_context import Context, RequestContext
from snaphold.api.threads import on_threads_of, streaming_on
from snaphold.errors import Forbidden, NotFound, ObjectMissing, Permanent, Transient, Unavailable
from snaphold.objects import CONTAINER, is_name

router = APIRouter(tags=["objects"], responses=documented(401, 403, 404, 405, 416, 500, 503))
on_stores_threads = on_threads_of(ThreadPoolExecutor(16, thread_name_prefix="objects"))
streamed = streaming_on(on_stores_threads)

T = TypeVar("T")
_PARTIAL: Final[dict[int | str, dict[str, Any]]] = {206: {"description": "The requested range."}}
_PREFIXES: Final = (STORAGE_PREFIX, "AUTH_")  # Rackspace's and OpenStack's
_RANGE: Final = re.compile(r"bytes=(?P<first>[0-9]{0,18})-(?P<last>[0-9]{0,18})", re.ASCII)
_TYPES: Final = {"gz": "application/gzip", "zst": "application/zstd", "json": "application/json"}


@router.head("/v1/{storage_account}/{container}/{name:path}", response_class=Response, responses=_PARTIAL)
@router.get(
    "/v1/{storage_account}/{container}/{name:path}",
    response_class=StreamingResponse,
    responses=_PARTIAL,
)
async def read_object(  # noqa: PLR0917 - the framework passes them by name
    request: Request,
    context: Context,
    token: Token,
    storage_account: str,
    container: str,
    name: str,
    range_: Annotated[str | None, Header(alias="Range", description="One range of bytes.")] = None,
    if_range: Annotated[
        str | None, Header(alias="If-Range", description="The ETag of the object that the range is for.")
    ] = None,
) -> Response:
    """Read an object or a range of it. Objects of a backup do not change, so that the ETag is of name and length."""
    caller = await caller_of(context, token)
    account = _account(storage_account)
    check_account(caller, account)
    check_right(caller, request.method)
    if container != CONTAINER or not is_name(name):
        raise NotFound("The object cannot be found.")
    size = await _in_time(context, _size(context, account, name))
    etag = f'"{hashlib.sha256(f"{account}/{name}/{size}".encode()).hexdigest()[:32]}"'
    headers = {"Accept-Ranges": "bytes", "ETag": etag}
    wanted = None if if_range not in (None, etag) else parse_range(range_, size)
    if wanted == (0, 0):
        answer = fault(416, f"The object has {size} bytes.")
        answer.headers.update({**headers, "Content-Range": f"bytes */{size}"})
        return answer
    start, length = (0, size) if wanted is None else wanted
    if wanted is not None:
        headers["Content-Range"] = f"bytes {start}-{start + length - 1}/{size}"
    headers["Content-Length"] = str(length)
    headers["Content-Type"] = _TYPES.get(name.rpartition(".")[2], "application/octet-stream")
    status = 200 if wanted is None else 206
    if request.method == "HEAD" or length == 0:
        return Response(None, status, headers)
    pieces = await _in_time(context, _open(context, account, name, start, length))
    return StreamingResponse(streamed(pieces), status, headers)


def parse_range(text: str | None, size: int) -> tuple[int, int] | None:
    """Start and length of the range that a header asks for, of an object of ``size`` bytes.

    None: the whole object, because the header asks for no range, several ranges or another unit. ``(0, 0)``: the range
    is outside of the object.
    """
    found = None if text is None else _RANGE.fullmatch(text.replace(" ", ""))
    if found is None or (not found["first"] and not found["last"]):
        return None
    if not found["first"]:
        length = min(int(found["last"]), size)
        return (size - length, length) if length else (0, 0)
    first = int(found["first"])
    last = int(found["last"]) if found["last"] else size - 1
    if found["last"] and last < first:
        return None
    return (first, min(last, size - 1) - first + 1) if first < size else (0, 0)


def _account(storage_account: str) -> str:
    for prefix in _PREFIXES:
        if storage_account.startswith(prefix):
            return storage_account.removeprefix(prefix)
    raise NotFound("The resource could not be found.")


async def _in_time(context: RequestContext, answer: Awaitable[T]) -> T:
    """The store's answer. Raises ``Unavailable`` if it takes too long."""
    try:
        return await asyncio.wait_for(answer, context.deployment.settings.store_timeout_s)
    except TimeoutError:
        raise Unavailable("The object store does not answer.") from None


@on_stores_threads
def _size(context: RequestContext, account: str, name: str) -> int:
    context.deployment.store_gate.check(account, write=False)
    with _as_refusals():
        return context.objects.size(account, name)


@on_stores_threads
def _open(context: RequestContext, account: str, name: str, start: int, length: int) -> Iterator[bytes]:
    with _as_refusals():
        return context.objects.get(account, name, start, length)


@contextmanager
def _as_refusals() -> Iterator[None]:
    """Turn the store's errors into refusals."""
    try:
        yield
    except ObjectMissing as error:
        raise NotFound("The object cannot be found.") from error
    except Permanent as error:
        raise Forbidden("The object store refuses this account.") from error
    except Transient as error:
        raise Unavailable("The object store does not answer.") from error
