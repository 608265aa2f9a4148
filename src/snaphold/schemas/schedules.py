"""Schedules of backups (contract, section 7)."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, PlainValidator, WithJsonSchema, model_validator

from snaphold.schemas.base import AnswerSchema, Link, RequestSchema, Sometimes
from snaphold.schemas.fields import GivenReference, number_from_digits


def _names(text: object) -> object:
    return [name.strip() for name in text.split(",")] if isinstance(text, str) else text


def _true(value: object) -> bool:
    if value in ("true", "false"):
        return value == "true"
    if value is None or isinstance(value, bool):
        return bool(value)
    raise ValueError('must be "true" or "false"')


DayOfWeek = Annotated[
    int,
    Field(ge=0, le=7, description="The day of the full backup: 0 is Sunday; 7: every backup is full."),
    BeforeValidator(number_from_digits),
]
Hour = Annotated[int, Field(ge=0, le=23, description="UTC"), BeforeValidator(number_from_digits)]
Minute = Annotated[int, Field(ge=0, le=59), BeforeValidator(number_from_digits)]
Retention = Annotated[int, Field(ge=2, le=1000), BeforeValidator(number_from_digits)]
Regions = Annotated[list[GivenReference], BeforeValidator(_names)]
RunNow = Annotated[
    bool, PlainValidator(_true), WithJsonSchema({"enum": ["true", "false", True, False, None], "default": "false"})
]


class ScheduleFields(RequestSchema):
    """The schedule to create."""

    also_called: ClassVar = {
        "copy_to": ("copytoregion", "copytoregions", "copyregion", "copyregions"),
        "instance_id": ("instance",),
        "source_id": ("source",),
        "day_of_week": ("day", "weekday"),
        "full_backup_retention": ("retention", "fullretention"),
    }

    action: Literal["backup"]
    instance_id: GivenReference | None = None
    source_id: GivenReference | None = None
    source_type: Literal["instance", "ha"] | None = None
    day_of_week: DayOfWeek
    hour: Hour
    minute: Minute
    full_backup_retention: Retention | None = None
    copy_to: Regions | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.instance_id is None and (self.source_id is None or self.source_type is None):
            raise ValueError("needs an instance_id, or a source_id and its source_type")
        if self.instance_id is not None and (
            self.source_id not in (None, self.instance_id) or self.source_type == "ha"
        ):
            raise ValueError("names an instance and a source that differ")
        return self


class ScheduleCreate(RequestSchema):
    """``POST /schedules``."""

    schedule: ScheduleFields


class ScheduleChangeFields(RequestSchema):
    """The changes to a schedule. What is absent or null stays as it is. ``copy_to`` []: copy no longer."""

    also_called: ClassVar = {
        "copy_to": ("copytoregion", "copytoregions", "copyregion", "copyregions"),
        "instance_id": ("instance",),
        "source_id": ("source",),
        "day_of_week": ("day", "weekday"),
        "full_backup_retention": ("retention", "fullretention"),
        "run_now": ("run", "now"),
    }

    action: Literal["backup"] | None = None
    instance_id: GivenReference | None = None
    source_id: GivenReference | None = None
    day_of_week: DayOfWeek | None = None
    hour: Hour | None = None
    minute: Minute | None = None
    full_backup_retention: Retention | None = None
    copy_to: Regions | None = None
    run_now: RunNow = False

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if None not in (self.instance_id, self.source_id) and self.instance_id != self.source_id:
            raise ValueError("names an instance and a source that differ")
        return self


class ScheduleChange(RequestSchema):
    """``PUT /schedules/{id}``."""

    schedule: ScheduleChangeFields


class WaitingFullAnswer(AnswerSchema):
    """A full backup that the schedule cannot delete yet, because manual backups depend on it."""

    backup_id: str
    needed_by: list[str]


class ScheduleAnswer(AnswerSchema):
    """A schedule of backups, in UTC. ``copy_to`` null: no copies. Clients expect the keys that are always null."""

    id: str
    action: Literal["backup"]
    instance_id: str | None
    source_type: str
    source_id: str
    minute: int
    hour: int
    day_of_week: int
    day_of_month: None
    month: None
    full_backup_retention: int
    copy_to: list[str] | None
    next_run: str
    last_scheduled: str | None
    created: str
    updated: str
    retention_waits: Sometimes[list[WaitingFullAnswer]] = None


class ScheduleShown(AnswerSchema):
    """One schedule."""

    schedule: ScheduleAnswer


class ScheduleList(AnswerSchema):
    """A page of schedules, newest first. The last page has no ``links``."""

    schedules: list[ScheduleAnswer]
    links: Sometimes[list[Link]] = None
