"""Schedules of backups (contract, section 7)."""

from typing import Annotated

from fastapi import Depends, Query, Response

from snaphold.api import answers
from snaphold.api.answers import ScheduleList, ScheduleShown
from snaphold.api.bodies import ScheduleChange, ScheduleCreate
from snaphold.api.context import Calling
from snaphold.api.faults import documented
from snaphold.api.paging import Paged
from snaphold.api.request_body import BodyOf
from snaphold.api.route import router_of
from snaphold.service import schedules as service
from snaphold.service.requests import ScheduleFilter

router = router_of(
    prefix="/v1.0/{account}",
    tags=["schedules"],
    responses=documented(400, 401, 403, 404, 405, 413, 415, 422, 500, 501, 503),
)


@router.post("/schedules", status_code=202)
def create_schedule(call: Calling, body: Annotated[ScheduleCreate, Depends(BodyOf(ScheduleCreate))]) -> ScheduleShown:
    """Have an instance backed up by itself: a full one each week, increments on top of it on the other days."""
    schedule = service.create_schedule(call.deployment, call.account, body.request(call.caller.user))
    return ScheduleShown(schedule=answers.shown_schedule(schedule))


@router.get("/schedules")
def list_schedules(
    call: Calling,
    page: Paged,
    action: Annotated[str | None, Query(description="Only of this action; there is one, `backup`.")] = None,
    source_type: Annotated[str | None, Query(description="Only of this type of source.")] = None,
    source_id: Annotated[str | None, Query(description="Only of this source.")] = None,
) -> ScheduleList:
    """The account's schedules, newest first."""
    wanted = ScheduleFilter(action=action, source_type=source_type, source_id=source_id)
    found = service.list_schedules(call.deployment, call.account, page.wanted, wanted)
    more = None if found.next_marker is None else call.links.next_page(page.path, page.query, found.next_marker)
    return ScheduleList(
        schedules=[answers.shown_schedule(schedule) for schedule in found.schedules], links=answers.next_links(more)
    )


@router.get("/schedules/{schedule_id}")
def show_schedule(call: Calling, schedule_id: str) -> ScheduleShown:
    """One schedule."""
    schedule = service.show_schedule(call.deployment, call.account, schedule_id)
    return ScheduleShown(schedule=answers.shown_schedule(schedule))


@router.put("/schedules/{schedule_id}", status_code=202)
def change_schedule(
    call: Calling, schedule_id: str, body: Annotated[ScheduleChange, Depends(BodyOf(ScheduleChange))]
) -> ScheduleShown:
    """Change a schedule, or have it run now."""
    schedule = service.change_schedule(call.deployment, call.account, schedule_id, body.request(call.caller.user))
    return ScheduleShown(schedule=answers.shown_schedule(schedule))


@router.delete("/schedules/{schedule_id}", status_code=202, response_class=Response)
def delete_schedule(call: Calling, schedule_id: str) -> Response:
    """Have a schedule deleted; its backups stay."""
    service.delete_schedule(call.deployment, call.account, schedule_id)
    return Response(status_code=202)
