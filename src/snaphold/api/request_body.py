"""Request bodies: read up to a limit, parsed as strict JSON, and validated once, with refusals that people understand.

A refusal repeats no value of a body, because one may be a password.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Final, Generic, TypeVar

import pydantic_core
from fastapi import Request
from pydantic import BaseModel, ValidationError

from snaphold.api.request_context import context_of
from snaphold.errors import BadRequest, OverLimit, UnsupportedMediaType
from snaphold.schemas.base import ComparisonBudget

M = TypeVar("M", bound=BaseModel)
_MAX_INLINE_BYTES: Final = 4 << 10  # a larger body is parsed on a thread, so that other requests go on
_MAX_COMPLAINTS: Final = 5  # in one refusal
_PREDICATES: Final[Mapping[str, str]] = {
    "value_error": "{error}",
    "missing": "is required",
    "string_type": "must be a string",
    "string_unicode": "must be a string of valid Unicode",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "too_short": "must have at least {min_length} entries",
    "too_long": "must have at most {max_length} entries",
    "int_type": "must be an integer",
    "int_from_float": "must be an integer",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "literal_error": "must be {expected}",
}


class BodyOf(Generic[M]):
    """A dependency: the request's body as ``model``. ``max_bytes`` None: the limit in the settings.

    Raises:
        BadRequest: the body is not JSON, or does not fit the model.
        OverLimit: the body is too large, or its header says so.
        UnsupportedMediaType: its header says that it is not JSON.
    """

    def __init__(self, model: type[M], max_bytes: int | None = None) -> None:
        self.model = model
        self._max_bytes = max_bytes

    async def __call__(self, request: Request) -> M:
        """The body of this request."""
        check_media_type(request.headers.get("content-type"))
        raw = await _read(request, self._max_bytes or context_of(request).deployment.settings.max_body_bytes)
        if len(raw) <= _MAX_INLINE_BYTES:
            return parse_body(self.model, raw)
        return await asyncio.to_thread(parse_body, self.model, raw)


def check_media_type(content_type: str | None) -> None:
    """Raise ``UnsupportedMediaType`` if there is a media type and it is not JSON's."""
    if content_type is not None and content_type.partition(";")[0].strip().lower() != "application/json":
        raise UnsupportedMediaType("The body must be application/json.")


def parse_body(model: type[M], raw: bytes) -> M:
    """The body as ``model``. Raises ``BadRequest``."""
    try:
        document = pydantic_core.from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        # The parser says what it expected, and at which line and column.
        reason = str(error).replace("recursion limit exceeded", "it is nested too deeply")
        raise BadRequest(f"Malformed request body: {reason}") from None
    try:
        return model.model_validate(document, context=ComparisonBudget())
    except ValidationError as error:
        complaints = error.errors(include_url=False, include_input=False)
    raise BadRequest("; ".join(_sentence(complaint) for complaint in complaints[:_MAX_COMPLAINTS]))


async def _read(request: Request, max_bytes: int) -> bytes:
    too_large = OverLimit(f"The body is larger than {max_bytes} bytes.")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > max_bytes:
        raise too_large
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > max_bytes:
            raise too_large
        parts.append(part)
    return b"".join(parts)


def _sentence(complaint: Any) -> str:
    """Such as ``backup.name must be a string``."""
    where = ".".join(str(step) for step in complaint["loc"]) or "The body"
    predicate = _PREDICATES.get(complaint["type"], "is not valid")
    return f"{where} {predicate.format(**complaint.get('ctx', {}))}"
