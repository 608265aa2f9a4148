"""Routes of schedules (contract, section 7)."""

from typing import Annotated, Final

from fastapi import Depends, Query, Response

from snaphold.api.authorization import Authorized
from snaphold.api.faults import documented
from snaphold.api.names import distinct
from snaphold.api.paging import Paged
from snaphold.api.request_body import BodyOf
from snaphold.api.route import router_of
from snaphold.model import Schedule, rfc3339
from snaphold.schemas.schedules import (
    ScheduleAnswer,
    ScheduleChange,
    ScheduleCreate,
    ScheduleList,
    ScheduleShown,
    WaitingFullAnswer,
)
from snaphold.service import schedules as service
from snaphold.service.requests import ScheduleChangeRequest, ScheduleFilter, ScheduleRequest

_DEFAULT_RETENTION: Final = 2  # scheduled full backups

router = router_of(
    prefix="/v1.0/{account}",
    tags=["schedules"],
    responses=documented(400, 401, 403, 404, 405, 413, 415, 422, 500, 501, 503),
)


@router.post("/schedules", status_code=202)
def create_schedule(
    call: Authorized, body: Annotated[ScheduleCreate, Depends(BodyOf(ScheduleCreate))]
) -> ScheduleShown:
    """Schedule daily backups of an instance: a full backup once a week, and increments on the other days."""
    request = _create_request(body, call.caller.user)
    return _shown(service.create_schedule(call.deployment, call.account, request))


@router.get("/schedules")
def list_schedules(
    call: Authorized,
    page: Paged,
    action: Annotated[str | None, Query(description="Only schedules of this action. The only one is `backup`.")] = None,
    source_type: Annotated[str | None, Query(description="Only schedules of this type of source.")] = None,
    source_id: Annotated[str | None, Query(description="Only schedules of this source.")] = None,
) -> ScheduleList:
    """List the account's schedules, newest first."""
    wanted = ScheduleFilter(action=action, source_type=source_type, source_id=source_id)
    found = service.list_schedules(call.deployment, call.account, page.wanted, wanted)
    return ScheduleList(
        schedules=[_answer(schedule) for schedule in found.schedules],
        links=call.links.next_page(page.path, page.query, found.next_marker),
    )


@router.get("/schedules/{schedule_id}")
def show_schedule(call: Authorized, schedule_id: str) -> ScheduleShown:
    """Show a schedule."""
    return _shown(service.show_schedule(call.deployment, call.account, schedule_id))


@router.put("/schedules/{schedule_id}", status_code=202)
def change_schedule(
    call: Authorized, schedule_id: str, body: Annotated[ScheduleChange, Depends(BodyOf(ScheduleChange))]
) -> ScheduleShown:
    """Change a schedule, or run it now."""
    request = _change_request(body, call.caller.user)
    return _shown(service.change_schedule(call.deployment, call.account, schedule_id, request))


@router.delete("/schedules/{schedule_id}", status_code=202, response_class=Response)
def delete_schedule(call: Authorized, schedule_id: str) -> Response:
    """Delete a schedule. Its backups stay."""
    service.delete_schedule(call.deployment, call.account, schedule_id)
    return Response(status_code=202)


def _create_request(body: ScheduleCreate, user: str) -> ScheduleRequest:
    asked = body.schedule
    return ScheduleRequest(
        source_type="instance" if asked.source_type is None else asked.source_type,
        source_id=asked.instance_id or asked.source_id or "-",
        day_of_week=asked.day_of_week,
        hour=asked.hour,
        minute=asked.minute,
        full_backup_retention=asked.full_backup_retention or _DEFAULT_RETENTION,
        copy_to=distinct(asked.copy_to),
        asked_by=user,
    )


def _change_request(body: ScheduleChange, user: str) -> ScheduleChangeRequest:
    asked = body.schedule
    return ScheduleChangeRequest(
        source_id=asked.instance_id or asked.source_id,
        day_of_week=asked.day_of_week,
        hour=asked.hour,
        minute=asked.minute,
        full_backup_retention=asked.full_backup_retention,
        copy_to=distinct(asked.copy_to),
        run_now=asked.run_now,
        asked_by=user,
    )


def _shown(schedule: Schedule) -> ScheduleShown:
    return ScheduleShown(schedule=_answer(schedule))


def _answer(schedule: Schedule) -> ScheduleAnswer:
    return ScheduleAnswer(
        id=schedule.id,
        action="backup",
        instance_id=schedule.source_id if schedule.source_type == "instance" else None,
        source_type=schedule.source_type,
        source_id=schedule.source_id,
        minute=schedule.minute,
        hour=schedule.hour,
        day_of_week=schedule.day_of_week,
        day_of_month=None,
        month=None,
        full_backup_retention=schedule.full_backup_retention,
        copy_to=None if schedule.copy_to is None else list(schedule.copy_to),
        next_run=rfc3339(schedule.next_run_us),
        last_scheduled=None if schedule.last_run_us is None else rfc3339(schedule.last_run_us),
        created=rfc3339(schedule.created_us),
        updated=rfc3339(schedule.updated_us),
        retention_waits=[
            WaitingFullAnswer(backup_id=full.backup_id, needed_by=list(full.needed_by))
            for full in schedule.waiting_fulls
        ]
        or None,
    )
