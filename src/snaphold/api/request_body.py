"""Request bodies: read within bounds, parsed as strict JSON, checked once, refused in words that a person understands.

Nothing of a body's values ever stands in a refusal: one of them may be a password.
"""

import asyncio
import functools
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, ClassVar, Final, Generic, TypeVar

import pydantic_core
from fastapi import Request
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from snaphold.api.context import context_of
from snaphold.errors import BadRequest, OverLimit, UnsupportedMediaType

M = TypeVar("M", bound=BaseModel)
_PARSED_AT_ONCE: Final = 64 << 10  # bytes of a body that takes no time worth a thread
_SHOWN: Final = 5  # complaints in one answer
_COMPARED: Final = 50  # unknown keys of one object
_COMPARABLE: Final = re.compile(r"[A-Za-z0-9_-]{2,40}", re.ASCII)
_SHORTEST_COMPARED: Final = 5  # letters of a key that one wrong letter is looked for in
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
    """A part of a request: strict in types, silent about its values.

    Keys that it does not know are ignored, for clients send many that mean nothing here. But one that is nearly a key
    of ours is refused: to ignore it would be to do something else than was meant. Nearly the same is what differs in
    case, hyphens and underscores, or in one letter (of five or more); what ``also_called`` names; and a key of the one
    part that this body has, which stands beside that part. A key whose value is null asks for nothing.

    ``also_called``: by our keys, other names for them in small letters and digits only.
    """

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, hide_input_in_errors=True)
    also_called: ClassVar[Mapping[str, Sequence[str]]] = {}

    @model_validator(mode="before")
    @classmethod
    def _no_near_misses(cls, value: Any) -> Any:
        if isinstance(value, dict):
            known = _keys_of(cls)
            unknown = (key for key in value if key not in known and value[key] is not None)
            for key in itertools.islice(unknown, _COMPARED):
                cls._check_meant(key)
        return value

    @classmethod
    def _check_meant(cls, key: str) -> None:
        if not _COMPARABLE.fullmatch(key):
            return
        plain = _plain(key)
        meant = next((name for spelling in _spellings(plain) if (name := _names_of(cls).get(spelling))), None)
        if meant is not None:
            raise ValueError(f'has no key "{key}": the right one is "{meant}"')
        inner = _only_part(cls)
        if inner is not None and plain in {_plain(name) for name in _keys_of(inner[1])}:
            raise ValueError(f'has no key "{key}": it belongs inside "{inner[0]}"')


def _plain(key: str) -> str:
    return re.sub(r"[^a-z0-9]", "", key.lower())


def _spellings(plain: str) -> Iterator[str]:
    """A key, and where it is long enough what is left of it without one letter: one wrong letter leaves one alike."""
    yield plain
    if len(plain) >= _SHORTEST_COMPARED:
        yield from (plain[:at] + plain[at + 1 :] for at in range(len(plain)))


@functools.cache
def _keys_of(model: type[BaseModel]) -> AbstractSet[str]:
    return {field.alias or name for name, field in model.model_fields.items()}


@functools.cache
def _names_of(model: type[Body]) -> Mapping[str, str]:
    """The model's keys by every spelling that is taken for them."""
    names: dict[str, str] = {}
    for key in sorted(_keys_of(model)):
        for spelling in _spellings(_plain(key)):
            names.setdefault(spelling, key)
    for key, others in model.also_called.items():
        names.update(dict.fromkeys(others, key))
    return {**names, **{_plain(key): key for key in _keys_of(model)}}


@functools.cache
def _only_part(model: type[Body]) -> tuple[str, type[Body]] | None:
    """The key and the model of the one part that a request's whole body has."""
    if len(model.model_fields) != 1:
        return None
    ((name, field),) = model.model_fields.items()
    part = field.annotation
    return (field.alias or name, part) if isinstance(part, type) and issubclass(part, Body) else None


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
        raw = await _read(request, self._max_bytes or context_of(request).deployment.settings.max_body_bytes)
        if len(raw) <= _PARSED_AT_ONCE:
            return parse_body(self.model, raw)
        return await asyncio.to_thread(parse_body, self.model, raw)  # other requests go on meanwhile


def check_media_type(content_type: str | None) -> None:
    """Raises ``UnsupportedMediaType`` when it is given and is not JSON's."""
    if content_type is not None and content_type.partition(";")[0].strip().lower() != "application/json":
        raise UnsupportedMediaType("The body must be application/json.")


def parse_body(model: type[M], raw: bytes) -> M:
    """The body as ``model``. Raises ``BadRequest``."""
    try:
        document = pydantic_core.from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        raise BadRequest(
            f"Malformed request body: {error}"
        ) from None  # what was expected, and at which line and column
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
