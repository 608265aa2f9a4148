"""Routes of backups (contract, section 2)."""

from functools import cache
from typing import Annotated, Any

from fastapi import Depends, Query, Response

from snaphold.api.authorization import Authorized, Call
from snaphold.api.faults import documented
from snaphold.api.links import Links
from snaphold.api.names import distinct
from snaphold.api.paging import Page, Paged
from snaphold.api.progress import progress_of
from snaphold.api.request_body import BodyOf
from snaphold.api.route import router_of
from snaphold.errors import NotOffered
from snaphold.model import Backup, BackupStatus, VerificationLevel, gigabytes, rfc3339, version_id
from snaphold.schemas.backups import (
    BackupAction,
    BackupAnswer,
    BackupCreate,
    BackupCreated,
    BackupDatastore,
    BackupList,
    BackupShown,
    BackupSource,
    CopyAnswer,
    CopyBackup,
    NewBackupAnswer,
    Source,
    Verification,
    Verify,
)
from snaphold.service import backups as service
from snaphold.service.consolidation import request_consolidation
from snaphold.service.copies import request_copy
from snaphold.service.requests import BackupPage, BackupRequest, CopyRequest
from snaphold.service.verification import request_repair, request_verification

router = router_of(
    prefix="/v1.0/{account}",
    tags=["backups"],
    responses=documented(400, 401, 403, 404, 405, 413, 415, 422, 500, 501, 503),
)


@router.post("/backups", status_code=202)
def create_backup(call: Authorized, body: Annotated[BackupCreate, Depends(BodyOf(BackupCreate))]) -> BackupCreated:
    """Back up an instance or an HA group."""
    if body.backup.restore_from is not None:
        raise NotOffered("Backups of data outside of the service are not offered.")
    backup = service.request_backup(call.deployment, call.account, backup_request(body, call.caller.user))
    return created_backup(call.links, backup)


@router.get("/backups")
def list_backups(
    call: Authorized,
    page: Paged,
    datastore: Annotated[
        str | None, Query(description="Only backups of this datastore: its name, in any case, or its id.")
    ] = None,
    instance_id: Annotated[str | None, Query(description="Only backups of this instance.")] = None,
) -> BackupList:
    """List the account's backups, newest first."""
    found = service.list_backups(
        call.deployment, call.account, page.wanted, datastore=datastore, instance_id=instance_id
    )
    return _listed(call, page, found)


@router.get("/backups/{backup_id}")
def show_backup(call: Authorized, backup_id: str) -> BackupShown:
    """Show a backup."""
    backup = service.show_backup(call.deployment, call.account, backup_id)
    return BackupShown(backup=shown_backup(call.links, backup))


@router.delete("/backups/{backup_id}", status_code=202, response_class=Response)
def delete_backup(call: Authorized, backup_id: str) -> Response:
    """Delete a backup and every increment that depends on it."""
    service.delete_backup(call.deployment, call.account, backup_id)
    return Response(status_code=202)


@router.post("/backups/{backup_id}/action", status_code=202, response_class=Response)
def act_on_backup(
    call: Authorized, backup_id: str, body: Annotated[BackupAction, Depends(BodyOf(BackupAction))]
) -> Response:
    """Copy a backup to another region, consolidate it, verify it, repair it from another region, or cancel it."""
    asked = (call.deployment, call.account, backup_id)
    if "verify" in body.model_fields_set:
        request_verification(*asked, VerificationLevel((body.verify or Verify()).level))
    elif "mend" in body.model_fields_set:
        request_repair(*asked)
    elif "consolidate" in body.model_fields_set:
        name = None if body.consolidate is None else body.consolidate.name
        created = created_backup(call.links, request_consolidation(*asked, name))
        return Response(created.model_dump_json(), status_code=202, media_type="application/json")
    elif "cancel" in body.model_fields_set:
        service.cancel_backup(*asked)
    elif body.copy_backup is not None:
        request_copy(*asked, _copy_request(body.copy_backup, call.caller.user))
    return Response(status_code=202)


@router.get("/instances/{instance_id}/backups")
def list_instance_backups(call: Authorized, instance_id: str, page: Paged) -> BackupList:
    """List the backups of an instance. It may have been deleted."""
    found = service.list_instance_backups(call.deployment, call.account, instance_id, page.wanted)
    return _listed(call, page, found)


@router.get("/ha/{group_id}/backups")
def list_group_backups(call: Authorized, group_id: str, page: Paged) -> BackupList:
    """List the backups of an HA group. It may have been deleted."""
    found = service.list_group_backups(call.deployment, call.account, group_id, page.wanted)
    return _listed(call, page, found)


def backup_request(body: BackupCreate, user: str) -> BackupRequest:
    """The service's request for a new backup."""
    asked = body.backup
    source = asked.source or Source(type="instance", id=asked.instance or "-")
    return BackupRequest(
        name=asked.name,
        description=asked.description,
        source_type=source.type,
        source_id=source.id,
        parent_id=asked.parent_id,
        incremental=asked.incremental,
        copy_to=distinct(asked.copy_to),
        asked_by=user,
    )


def created_backup(links: Links, backup: Backup) -> BackupCreated:
    """The answer to the creation of a backup."""
    return BackupCreated(backup=NewBackupAnswer(**_fields(links, backup), is_automated=backup.is_automated))


def shown_backup(links: Links, backup: Backup) -> BackupAnswer:
    """A backup as clients see it."""
    return BackupAnswer(**_fields(links, backup), is_automated=1 if backup.is_automated else 0)


def _copy_request(asked: CopyBackup, user: str) -> CopyRequest:
    return CopyRequest(region=asked.target_backup_region, name=asked.name, description=asked.description, asked_by=user)


def _listed(call: Call, page: Page, found: BackupPage) -> BackupList:
    return BackupList(
        backups=[shown_backup(call.links, backup) for backup in found.backups],
        links=call.links.next_page(page.path, page.query, found.next_marker),
    )


def _fields(links: Links, backup: Backup) -> dict[str, Any]:
    completed = backup.object_name is not None and backup.status is not BackupStatus.FAILED and not backup.running
    location = links.object(backup.account, backup.object_name) if completed and backup.object_name else None
    return {
        "id": backup.id,
        "name": backup.name,
        "description": backup.description,
        "status": backup.status,
        "created": rfc3339(backup.created_us),
        "updated": rfc3339(backup.updated_us),
        "instance_id": backup.instance_id,
        "source": BackupSource(type=backup.source_type, id=backup.source_id),
        "parent_id": backup.parent_id,
        "datastore": _datastore(backup.datastore, backup.version),
        "type": "InnoBackupEx" if backup.parent_id is None else "InnoBackupExIncremental",
        "size": None if backup.size_bytes is None else gigabytes(backup.size_bytes),
        "volume_size": backup.volume_gb,
        "flavor_ram": backup.flavor_ram_mb,
        "locationRef": location,
        "project_id": backup.account,
        "object_size": backup.object_bytes,
        "progress": progress_of(backup) if backup.running else None,
        "reason": backup.reason,
        "verification": _verification(backup),
        "copies": [
            CopyAnswer(region=copy.region, id=copy.copy_id, status=copy.status, reason=copy.reason)
            for copy in backup.copies
        ]
        or None,
    }


@cache
def _datastore(datastore: str, version: str) -> BackupDatastore:
    return BackupDatastore(type=datastore, version=version, version_id=version_id(datastore, version))


def _verification(backup: Backup) -> Verification | None:
    if backup.proof_status is None or backup.proof_level is None or backup.proof_at_us is None:
        return None
    return Verification(
        status=backup.proof_status,
        level=backup.proof_level,
        at=rfc3339(backup.proof_at_us),
        seconds=backup.proof_seconds or 0.0,
        reason=backup.proof_reason,
        mend_from=backup.proof_mend_from,
    )
