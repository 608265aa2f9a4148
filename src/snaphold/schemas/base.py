"""What all schemas have in common: strict requests that name a misspelt key, and answers without unknown keys.

An error never repeats a value from the request: the value may be a password.
"""

import functools
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Annotated, Any, ClassVar, Final, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, model_validator

T = TypeVar("T")
MAX_COMPARED: Final = 200  # unknown keys of a whole request; any more are ignored
_COMPARABLE: Final = re.compile(r"[A-Za-z0-9_-]{2,40}", re.ASCII)
_MIN_FUZZY_LENGTH: Final = 5  # letters of a key that still matches with one wrong letter


class ComparisonBudget:
    """How many more unknown keys of a request are compared with known ones. Pass one as the validation context."""

    def __init__(self) -> None:
        self._left = MAX_COMPARED

    def spend(self, _key: str) -> bool:
        """Whether one more key may be compared."""
        self._left -= 1
        return self._left >= 0


class RequestSchema(BaseModel):
    """A part of a request. Types are strict, and values do not appear in its errors.

    Unknown keys are ignored, because clients send many that mean nothing here. A key that is almost a known one is
    refused, because ignoring it would do something else than the client meant. Such a key differs in case, hyphens or
    underscores, or in one letter (of five or more); or it is listed in ``also_called``; or it belongs inside the only
    part of this request and stands next to that part. A key whose value is null or an empty string is ignored, and so
    is a key next to the one that it resembles.

    ``also_called``: other names of a key, in lower-case letters and digits only.
    """

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, hide_input_in_errors=True)
    also_called: ClassVar[Mapping[str, Sequence[str]]] = {}

    @model_validator(mode="before")
    @classmethod
    def _no_near_misses(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, dict):
            known = _keys_of(cls)
            unknown = (key for key in value if key not in known and _is_given(value[key]))
            budget = info.context if isinstance(info.context, ComparisonBudget) else ComparisonBudget()
            for key in itertools.takewhile(budget.spend, unknown):
                cls._check_near_miss(key, value)
        return value

    @classmethod
    def _check_near_miss(cls, key: str, value: Mapping[str, Any]) -> None:
        if not _COMPARABLE.fullmatch(key):
            return
        plain = _plain(key)
        meant = next((name for spelling in _spellings(plain) if (name := _names_of(cls).get(spelling))), None)
        if meant is not None:
            if _is_given(value.get(meant)):
                return
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


def _is_given(value: object) -> bool:
    return value is not None and value != ""


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
