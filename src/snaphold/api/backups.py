"""Backups: the chapter's routes (contract, section 2)."""

from typing import Annotated

from fastapi import Depends, Query, Response

from snaphold.api import answers
from snaphold.api.answers import BackupCreated, BackupList, BackupShown
from snaphold.api.bodies import BackupAction, BackupCreate, Verify
from snaphold.api.context import Call, Calling
from snaphold.api.faults import documented
from snaphold.api.paging import Page, Paged
from snaphold.api.request_body import BodyOf
from snaphold.api.route import router_of
from snaphold.errors import NotOffered
from snaphold.model import VerificationLevel
from snaphold.service import backups as service
from snaphold.service.consolidation import request_consolidation
from snaphold.service.copies import request_copy
from snaphold.service.requests import BackupPage
from snaphold.service.verification import request_repair, request_verification

router = router_of(
    prefix="/v1.0/{account}",
    tags=["backups"],
    responses=documented(400, 401, 403, 404, 405, 413, 415, 422, 500, 501, 503),
)


@router.post("/backups", status_code=202)
def create_backup(call: Calling, body: Annotated[BackupCreate, Depends(BodyOf(BackupCreate))]) -> BackupCreated:
    """Ask for a backup of an instance or of an HA group."""
    if body.backup.restore_from is not None:
        raise NotOffered("Backups cannot be made of what lies elsewhere.")
    backup = service.request_backup(call.deployment, call.account, body.request(call.caller.user))
    return answers.created_backup(call.links, backup)


@router.get("/backups")
def list_backups(
    call: Calling,
    page: Paged,
    datastore: Annotated[str | None, Query(description="Only of this type: its name, in any case, or its id.")] = None,
    instance_id: Annotated[str | None, Query(description="Only of this instance.")] = None,
) -> BackupList:
    """The account's backups, newest first."""
    found = service.list_backups(
        call.deployment, call.account, page.wanted, datastore=datastore, instance_id=instance_id
    )
    return _listed(call, page, found)


@router.get("/backups/{backup_id}")
def show_backup(call: Calling, backup_id: str) -> BackupShown:
    """One backup."""
    backup = service.show_backup(call.deployment, call.account, backup_id)
    return BackupShown(backup=answers.shown_backup(call.links, backup))


@router.delete("/backups/{backup_id}", status_code=202, response_class=Response)
def delete_backup(call: Calling, backup_id: str) -> Response:
    """Have a backup and every increment made from it deleted."""
    service.delete_backup(call.deployment, call.account, backup_id)
    return Response(status_code=202)


@router.post("/backups/{backup_id}/action", status_code=202, response_class=Response)
def act_on_backup(
    call: Calling, backup_id: str, body: Annotated[BackupAction, Depends(BodyOf(BackupAction))]
) -> Response:
    """Have a backup copied to another region, consolidated, verified, repaired from another region, or cancelled."""
    if "verify" in body.model_fields_set:
        request_verification(
            call.deployment, call.account, backup_id, VerificationLevel((body.verify or Verify()).level)
        )
        return Response(status_code=202)
    if "mend" in body.model_fields_set:
        request_repair(call.deployment, call.account, backup_id)
        return Response(status_code=202)
    if "consolidate" in body.model_fields_set:
        name = None if body.consolidate is None else body.consolidate.name
        made = answers.created_backup(call.links, request_consolidation(call.deployment, call.account, backup_id, name))
        return Response(made.model_dump_json(), status_code=202, media_type="application/json")
    if "cancel" in body.model_fields_set:
        service.cancel_backup(call.deployment, call.account, backup_id)
        return Response(status_code=202)
    if body.copy_backup is not None:
        request_copy(call.deployment, call.account, backup_id, body.copy_backup.request(call.caller.user))
    return Response(status_code=202)


@router.get("/instances/{instance_id}/backups")
def list_instance_backups(call: Calling, instance_id: str, page: Paged) -> BackupList:
    """The backups of an instance, of one that was deleted too."""
    found = service.list_instance_backups(call.deployment, call.account, instance_id, page.wanted)
    return _listed(call, page, found)


@router.get("/ha/{group_id}/backups")
def list_group_backups(call: Calling, group_id: str, page: Paged) -> BackupList:
    """The backups of an HA group, of one that was deleted too."""
    found = service.list_group_backups(call.deployment, call.account, group_id, page.wanted)
    return _listed(call, page, found)


def _listed(call: Call, page: Page, found: BackupPage) -> BackupList:
    more = None if found.next_marker is None else call.links.next_page(page.path, page.query, found.next_marker)
    return BackupList(
        backups=[answers.shown_backup(call.links, backup) for backup in found.backups],
        links=answers.next_links(more),
    )
