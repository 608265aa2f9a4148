"""Routes of HA groups. This release cannot create any, so that there are none; requests are checked all the same."""

from typing import Annotated

from fastapi import Depends, Response

from snaphold.api.authorization import Authorized
from snaphold.api.faults import documented
from snaphold.api.paging import Paged
from snaphold.api.request_body import BodyOf
from snaphold.api.route import router_of
from snaphold.errors import NotFound, NotOffered
from snaphold.schemas.groups import GroupAction, GroupCreate, GroupList

router = router_of(
    prefix="/v1.0/{account}",
    tags=["groups"],
    responses=documented(400, 401, 403, 404, 405, 413, 415, 422, 500, 501, 503),
)


@router.get("/ha")
def list_groups(call: Authorized, page: Paged) -> GroupList:
    """List the account's HA groups."""
    del call, page
    return GroupList(ha_instances=[])


@router.post("/ha", status_code=202, response_class=Response)
def create_group(call: Authorized, body: Annotated[GroupCreate, Depends(BodyOf(GroupCreate))]) -> Response:
    """Create an HA group: not offered by this release."""
    del call, body
    raise NotOffered("HA groups are not offered by this release.")


@router.get("/ha/{group_id}", response_class=Response)
def show_group(call: Authorized, group_id: str) -> Response:
    """Show an HA group."""
    del call
    raise _no_group(group_id)


@router.delete("/ha/{group_id}", status_code=202, response_class=Response)
def delete_group(call: Authorized, group_id: str) -> Response:
    """Delete an HA group."""
    del call
    raise _no_group(group_id)


@router.post("/ha/{group_id}/action", status_code=202, response_class=Response)
def act_on_group(
    call: Authorized, group_id: str, body: Annotated[GroupAction, Depends(BodyOf(GroupAction))]
) -> Response:
    """Change an HA group."""
    del call, body
    raise _no_group(group_id)


def _no_group(group_id: str) -> NotFound:
    return NotFound.of("HA group", group_id)
