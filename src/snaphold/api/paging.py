"""Pages of lists: ``limit`` and ``marker`` of a request (contract, section 2, "List")."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, TypeVar

from fastapi import Depends, Query, Request
from pydantic import WithJsonSchema

from snaphold.errors import BadRequest
from snaphold.service.requests import PageRequest

DEFAULT_LIMIT: Final = 20
MAX_LIMIT: Final = 100
_LIMIT: Final = re.compile(r"[0-9]{1,18}", re.ASCII)
_MARKER: Final = re.compile(r"[A-Za-z0-9._~-]{1,128}", re.ASCII)  # clients do not escape it
_PLAIN_KEY: Final = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)

T = TypeVar("T")


def parse_page(limit: str | None, marker: str | None) -> PageRequest:
    """The part of a list that a request asks for. A limit above the maximum means the maximum.

    Raises:
        BadRequest: the limit is not a positive number, or the marker cannot be one.
    """
    if limit is not None and (not _LIMIT.fullmatch(limit) or int(limit) < 1):
        raise BadRequest("limit must be a positive integer")
    if marker is not None and not _MARKER.fullmatch(marker):
        raise BadRequest("marker must be a value from a link to a next page")
    if marker is not None and marker.isdigit() and len(marker) > 18:
        raise BadRequest("marker is too large an offset")
    return PageRequest(limit=DEFAULT_LIMIT if limit is None else min(int(limit), MAX_LIMIT), marker=marker)


@dataclass(frozen=True, kw_only=True)
class Page:
    """The page that a request asks for, and the request's path and query."""

    wanted: PageRequest
    path: str
    query: Sequence[tuple[str, str]]


async def page_of(  # a coroutine, because it never waits
    request: Request,
    limit: Annotated[
        str | None,
        Query(description=f"The number of rows in a page, at most {MAX_LIMIT}. The default is {DEFAULT_LIMIT}."),
        WithJsonSchema({"type": "integer", "minimum": 1}),
    ] = None,
    marker: Annotated[
        str | None, Query(description="The page after this row: a value from the link to the next page, or an offset.")
    ] = None,
) -> Page:
    """The page that this request asks for. Raises ``BadRequest``."""
    wanted = parse_page(limit, marker)
    return Page(wanted=wanted, path=request.scope["path"], query=request.query_params.multi_items())


Paged = Annotated[Page, Depends(page_of)]


def page_by_key(rows: Sequence[T], key_of: Callable[[T], str], page: PageRequest) -> tuple[list[T], str | None]:
    """A page of rows that are sorted by key, and the next page's marker (None: this is the last page).

    In a marker, a key that URLs cannot contain unescaped becomes ``~`` and its UTF-8 in hexadecimal.
    """
    start = "" if page.marker is None else _key(page.marker)
    after = sorted((row for row in rows if page.marker is None or key_of(row) > start), key=key_of)
    part = after[: page.limit]
    return part, _marker(key_of(part[-1])) if len(after) > page.limit else None


def _marker(key: str) -> str:
    return key if _PLAIN_KEY.fullmatch(key) else f"~{key.encode().hex()}"


def _key(marker: str) -> str:
    if not marker.startswith("~"):
        return marker
    try:
        return bytes.fromhex(marker[1:]).decode()
    except ValueError as error:
        raise BadRequest("marker must be a value from a link to a next page") from error
