"""Routes of instances (contract, sections 3 and 4)."""

from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Response

from snaphold.api.authorization import Authorized, Call
from snaphold.api.databases import database_spec
from snaphold.api.faults import documented
from snaphold.api.links import Links
from snaphold.api.paging import Paged
from snaphold.api.progress import progress_of
from snaphold.api.request_body import BodyOf
from snaphold.api.request_context import PasswordHash
from snaphold.api.route import router_of
from snaphold.api.users import user_spec
from snaphold.model import Instance, InstanceStatus, gigabytes, rfc3339
from snaphold.schemas.datastores import DatastoreChoice
from snaphold.schemas.instances import (
    MYSQL_PORT,
    Address,
    InstanceAction,
    InstanceAnswer,
    InstanceChange,
    InstanceCreate,
    InstanceDatastore,
    InstanceFlavor,
    InstanceList,
    InstanceShown,
    Resize,
    VolumeAnswer,
)
from snaphold.service import instances as service
from snaphold.service.requests import InstanceRequest

router = router_of(
    prefix="/v1.0/{account}",
    tags=["instances"],
    responses=documented(400, 401, 403, 404, 405, 413, 415, 422, 500, 501, 503),
)


@router.post("/instances")
def create_instance(
    call: Authorized, body: Annotated[InstanceCreate, Depends(BodyOf(InstanceCreate))]
) -> InstanceShown:
    """Create an instance, empty or restored from a backup."""
    request = instance_request(body, call.password_hash_for)
    return _shown(call, service.create_instance(call.deployment, call.account, request))


@router.get("/instances")
def list_instances(call: Authorized, page: Paged) -> InstanceList:
    """List the account's instances, newest first."""
    found = service.list_instances(call.deployment, call.account, page.wanted)
    region = call.deployment.region
    return InstanceList(
        instances=[shown_instance(call.links, region, instance) for instance in found.instances],
        links=call.links.next_page(page.path, page.query, found.next_marker),
    )


@router.get("/instances/{instance_id}")
def show_instance(call: Authorized, instance_id: str) -> InstanceShown:
    """Show an instance."""
    return _shown(call, service.show_instance(call.deployment, call.account, instance_id))


@router.patch("/instances/{instance_id}", status_code=202, response_class=Response)
def rename_instance(
    call: Authorized, instance_id: str, body: Annotated[InstanceChange, Depends(BodyOf(InstanceChange))]
) -> Response:
    """Rename an instance."""
    service.rename_instance(call.deployment, call.account, instance_id, body.instance.name)
    return Response(status_code=202)


@router.delete("/instances/{instance_id}", status_code=202, response_class=Response)
def delete_instance(call: Authorized, instance_id: str) -> Response:
    """Delete an instance and its data. Its backups stay."""
    service.delete_instance(call.deployment, call.account, instance_id)
    return Response(status_code=202)


@router.post("/instances/{instance_id}/action", status_code=202, response_class=Response)
def act_on_instance(
    call: Authorized, instance_id: str, body: Annotated[InstanceAction, Depends(BodyOf(InstanceAction))]
) -> Response:
    """Restart, resize, stop or start an instance, or reset its status if it is stuck in one."""
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


def instance_request(body: InstanceCreate, hash_for: Callable[[str | None], PasswordHash]) -> InstanceRequest:
    """The service's request for a new instance. ``hash_for``: ``Call.password_hash_for``."""
    asked = body.instance
    datastore = asked.datastore or DatastoreChoice()
    return InstanceRequest(
        name=asked.name,
        flavor=asked.flavor,
        volume_gb=None if asked.volume is None else asked.volume.size,
        datastore=datastore.type,
        version=datastore.version,
        databases=[database_spec(database) for database in asked.databases or ()],
        users=[user_spec(user, hash_for(datastore.type)) for user in asked.users or ()],
        backup_ref=None if asked.restore_point is None else asked.restore_point.backup_ref,
        replica_of=asked.replica_of,
    )


def shown_instance(links: Links, region: str, instance: Instance) -> InstanceAnswer:
    """An instance as clients see it."""
    used = None if instance.used_bytes is None else gigabytes(instance.used_bytes)
    address = instance.address or instance.reserved_address
    return InstanceAnswer(
        id=instance.id,
        name=instance.name,
        status=instance.status,
        operating_status=_operating_status(instance),
        created=rfc3339(instance.created_us),
        updated=rfc3339(instance.updated_us),
        flavor=InstanceFlavor(
            id=str(instance.flavor_id), links=links.of(instance.account, f"flavors/{instance.flavor_id}")
        ),
        volume=VolumeAnswer(size=instance.volume_gb, used=used),
        datastore=InstanceDatastore(type=instance.datastore, version=instance.version),
        region=region,
        hostname=instance.hostname or address,
        ip=[] if address is None else [address],
        addresses=[] if address is None else [Address(address=address, type="private")],
        links=links.of(instance.account, f"instances/{instance.id}"),
        port=None if instance.port in (None, MYSQL_PORT) else instance.port,
        progress=progress_of(instance) if instance.step is not None else None,
        reason=instance.reason,
    )


def _operating_status(instance: Instance) -> str:
    """In OpenStack Trove's terms, which clients know. UNKNOWN while the host is silent."""
    if instance.host_silent and instance.address is not None:
        return "UNKNOWN"
    match instance.status:
        case InstanceStatus.BUILD:
            return "NEW"
        case InstanceStatus.REBOOT | InstanceStatus.RESIZE | InstanceStatus.SHUTDOWN:
            return "SHUTDOWN"
        case InstanceStatus.ACTIVE | InstanceStatus.BACKUP if instance.running:
            return "HEALTHY"
        case _:
            return "CRASHED"


def _shown(call: Call, instance: Instance) -> InstanceShown:
    return InstanceShown(instance=shown_instance(call.links, call.deployment.region, instance))
