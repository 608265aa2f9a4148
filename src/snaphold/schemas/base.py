"""What all schemas have in common: strict requests that name a misspelt key, and answers without unknown keys.

An error never repeats a value from the request: the value may be a password.
"""

import functools
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Annotated, Any, ClassVar, Final, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

T = TypeVar("T")
_MAX_COMPARED: Final = 50  # unknown keys of one object
_COMPARABLE: Final = re.compile(r"[A-Za-z0-9_-]{2,40}", re.ASCII)
_MIN_FUZZY_LENGTH: Final = 5  # letters of a key that still matches with one wrong letter


class RequestSchema(BaseModel):
    """A part of a request. Types are strict, and values do not appear in its errors.

    Unknown keys are ignored, because clients send many that mean nothing here. A key that is almost a known one is
    refused, because ignoring it would do something else than the client meant. Such a key differs in case, hyphens or
    underscores, or in one letter (of five or more); or it is listed in ``also_called``; or it belongs inside the only
    part of this request and stands next to that part. A key whose value is null is ignored.

    ``also_called``: other names of a key, in lower-case letters and digits only.
    """

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, hide_input_in_errors=True)
    also_called: ClassVar[Mapping[str, Sequence[str]]] = {}

    @model_validator(mode="before")
    @classmethod
    def _no_near_misses(cls, value: Any) -> Any:
        if isinstance(value, dict):
            known = _keys_of(cls)
            unknown = (key for key in value if key not in known and value[key] is not None)
            for key in itertools.islice(unknown, _MAX_COMPARED):
                cls._check_near_miss(key)
        return value

    @classmethod
    def _check_near_miss(cls, key: str) -> None:
        if not _COMPARABLE.fullmatch(key):
            return
        plain = _plain(key)
        meant = next((name for spelling in _spellings(plain) if (name := _names_of(cls).get(spelling))), None)
        if meant is not None:
            raise ValueError(f'has no key "{key}": the right one is "{meant}"')
        inner = _only_part(cls)
        if inner is not None and plain in {_plain(name) for name in _keys_of(inner[1])}:
            raise ValueError(f'has no key "{key}": it belongs inside "{inner[0]}"')


class Nothing(RequestSchema):
    """An empty object."""


class Action(RequestSchema):
    """An object with exactly one key, which names the action."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if len(self.model_fields_set) != 1:
            known = ", ".join(field.alias or name for name, field in type(self).model_fields.items())
            raise ValueError(f"must name exactly one action of {known}")
        return self

    @property
    def name(self) -> str:
        """The action's key."""
        (name,) = self.model_fields_set
        return type(self).model_fields[name].alias or name


class AnswerSchema(BaseModel):
    """A part of an answer. It has the declared keys and no others; all are always present but the ``Sometimes``."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _absent(value: object) -> bool:
    return value is None


Sometimes = Annotated[T | None, Field(default=None, exclude_if=_absent)]


class Link(AnswerSchema):
    """The address of a resource, and how it relates to this one."""

    href: str
    rel: str


def _plain(key: str) -> str:
    return re.sub(r"[^a-z0-9]", "", key.lower())


def _spellings(plain: str) -> Iterator[str]:
    """A key and, if it is long enough, the key without each of its letters: one wrong letter leaves one in common."""
    yield plain
    if len(plain) >= _MIN_FUZZY_LENGTH:
        yield from (plain[:at] + plain[at + 1 :] for at in range(len(plain)))


@functools.cache
def _keys_of(model: type[BaseModel]) -> AbstractSet[str]:
    return {field.alias or name for name, field in model.model_fields.items()}


@functools.cache
def _names_of(model: type[RequestSchema]) -> Mapping[str, str]:
    """The model's keys, by every spelling that is taken for one of them."""
    names: dict[str, str] = {}
    for key in sorted(_keys_of(model)):
        for spelling in _spellings(_plain(key)):
            names.setdefault(spelling, key)
    for key, others in model.also_called.items():
        names.update(dict.fromkeys(others, key))
    return {**names, **{_plain(key): key for key in _keys_of(model)}}


@functools.cache
def _only_part(model: type[RequestSchema]) -> tuple[str, type[RequestSchema]] | None:
    """Key and model of a request's only part. None: the request has several parts, or a plain value."""
    if len(model.model_fields) != 1:
        return None
    ((name, field),) = model.model_fields.items()
    part = field.annotation
    return (field.alias or name, part) if isinstance(part, type) and issubclass(part, RequestSchema) else None
