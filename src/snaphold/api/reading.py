"""Request bodies: read within bounds, parsed as strict JSON, checked once, refused in words that a person understands.

Nothing of a body's values ever stands in a refusal: one of them may be a password.
"""

from typing import Any, Final, Generic, TypeVar

import pydantic_core
from fastapi import Request
from pydantic import BaseModel, ConfigDict, ValidationError

from snaphold.api.desk import desk_of
from snaphold.errors import BadRequest, OverLimit, UnsupportedMediaType

M = TypeVar("M", bound=BaseModel)
_SHOWN: Final = 5  # complaints in one answer
_PREDICATES: Final = {
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


class Body(BaseModel):
    """A part of a request: strict in types, deaf to keys that it does not know, silent about its values."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, hide_input_in_errors=True)


class BodyOf(Generic[M]):
    """A dependency: the request's body as ``model``. ``max_bytes`` None: as the settings say.

    Raises:
        BadRequest: not JSON, or not of the model's form.
        OverLimit: too large, by its own account or when it is read.
        UnsupportedMediaType: not JSON by its own account.
    """

    def __init__(self, model: type[M], max_bytes: int | None = None) -> None:
        self.model = model
        self._max_bytes = max_bytes

    async def __call__(self, request: Request) -> M:
        """The body of this request."""
        check_media_type(request.headers.get("content-type"))
        raw = await _read(request, self._max_bytes or desk_of(request).deployment.settings.max_body_bytes)
        return parse_body(self.model, raw)


def check_media_type(content_type: str | None) -> None:
    """Raises ``UnsupportedMediaType`` when it is given and is not JSON's."""
    if content_type is not None and content_type.partition(";")[0].strip().lower() != "application/json":
        raise UnsupportedMediaType("The body must be application/json.")


def parse_body(model: type[M], raw: bytes) -> M:
    """The body as ``model``. Raises ``BadRequest``."""
    try:
        document = pydantic_core.from_json(raw, allow_inf_nan=False)
    except ValueError:
        raise BadRequest("Malformed request body") from None
    try:
        return model.model_validate(document)
    except ValidationError as error:
        complaints = error.errors(include_url=False, include_input=False)
    raise BadRequest("; ".join(_in_words(complaint) for complaint in complaints[:_SHOWN]))


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


def _in_words(complaint: Any) -> str:
    """``backup.name must be a string``."""
    where = ".".join(str(step) for step in complaint["loc"]) or "The body"
    predicate = _PREDICATES.get(complaint["type"], "is not valid")
    return f"{where} {predicate.format(**complaint.get('ctx', {}))}"
