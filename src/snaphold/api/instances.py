"""Instances: created, restored, listed, shown, renamed, restarted, resized, deleted (contract, sections 3 and 4)."""

from typing import Annotated

from fastapi import Depends, Response

from snaphold.api import answers
from snaphold.api.answers import InstanceList, InstanceShown
from snaphold.api.bodies import InstanceAction, InstanceChange, InstanceCreate, Resize
from snaphold.api.context import Call, Calling
from snaphold.api.faults import documented
from snaphold.api.paging import Paged
from snaphold.api.request_body import BodyOf
from snaphold.api.route import router_of
from snaphold.model import Instance
from snaphold.service import instances as service

router = router_of(
    prefix="/v1.0/{account}",
    tags=["instances"],
    responses=documented(400, 401, 403, 404, 405, 413, 415, 422, 500, 501, 503),
)


@router.post("/instances")
def create_instance(call: Calling, body: Annotated[InstanceCreate, Depends(BodyOf(InstanceCreate))]) -> InstanceShown:
    """Ask for a new instance: an empty one, or one restored from a backup."""
    return _shown(call, service.create_instance(call.deployment, call.account, body.request()))


@router.get("/instances")
def list_instances(call: Calling, page: Paged) -> InstanceList:
    """The account's instances, newest first."""
    found = service.list_instances(call.deployment, call.account, page.wanted)
    more = None if found.next_marker is None else call.links.next_page(page.path, page.query, found.next_marker)
    region = call.deployment.region
    return InstanceList(
        instances=[answers.shown_instance(call.links, region, instance) for instance in found.instances],
        links=answers.next_links(more),
    )


@router.get("/instances/{instance_id}")
def show_instance(call: Calling, instance_id: str) -> InstanceShown:
    """One instance."""
    return _shown(call, service.show_instance(call.deployment, call.account, instance_id))


@router.patch("/instances/{instance_id}", status_code=202, response_class=Response)
def rename_instance(
    call: Calling, instance_id: str, body: Annotated[InstanceChange, Depends(BodyOf(InstanceChange))]
) -> Response:
    """Give an instance another name."""
    service.rename_instance(call.deployment, call.account, instance_id, body.instance.name)
    return Response(status_code=202)


@router.delete("/instances/{instance_id}", status_code=202, response_class=Response)
def delete_instance(call: Calling, instance_id: str) -> Response:
    """Have an instance and its data deleted; its backups stay."""
    service.delete_instance(call.deployment, call.account, instance_id)
    return Response(status_code=202)


@router.post("/instances/{instance_id}/action", status_code=202, response_class=Response)
def act_on_instance(
    call: Calling, instance_id: str, body: Annotated[InstanceAction, Depends(BodyOf(InstanceAction))]
) -> Response:
    """Restart, resize, stop or start an instance, or free it of the status that it is stuck in."""
    asked = (call.deployment, call.account, instance_id)
    match body:
        case InstanceAction(resize=Resize(volume=volume)) if volume is not None:
            service.resize_volume(*asked, volume.size)
        case InstanceAction(resize=Resize(flavor=flavor)) if flavor is not None:
            service.resize_flavor(*asked, flavor)
        case InstanceAction(name="restart"):
            service.restart_instance(*asked)
        case InstanceAction(name="stop"):
            service.stop_instance(*asked)
        case InstanceAction(name="start"):
            service.start_instance(*asked)
        case _:
            service.reset_status(*asked)
    return Response(status_code=202)


def _shown(call: Call, instance: Instance) -> InstanceShown:
    return InstanceShown(instance=answers.shown_instance(call.links, call.deployment.region, instance))
