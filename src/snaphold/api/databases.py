"""Routes of an instance's databases. The host does the work while the caller waits (contract, section 4)."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

from fastapi import Depends, Response
from pydantic import TypeAdapter

from snaphold.api.authorization import Authorized
from snaphold.api.faults import documented
from snaphold.api.host_calls import waits_for_a_host
from snaphold.api.names import check_name
from snaphold.api.paging import Paged, page_by_key
from snaphold.api.request_body import BodyOf
from snaphold.api.route import router_of
from snaphold.errors import NotFound
from snaphold.protocol import DatabaseSpec
from snaphold.schemas.databases import (
    DatabaseAnswer,
    DatabaseFields,
    DatabaseList,
    DatabasesCreate,
    ValidDatabaseName,
)
from snaphold.service import databases as service

router = router_of(
    prefix="/v1.0/{account}/instances/{instance_id}",
    tags=["databases and users"],
    responses=documented(400, 401, 403, 404, 405, 413, 415, 422, 500, 501, 503),
)

_DATABASE_NAME: Final[TypeAdapter[str]] = TypeAdapter(ValidDatabaseName)


@router.get("/databases")
@waits_for_a_host
def list_databases(call: Authorized, instance_id: str, page: Paged) -> DatabaseList:
    """List the databases that clients created, by name."""
    found = service.list_databases(call.deployment, call.account, instance_id)
    rows, marker = page_by_key([_shown(row) for row in found], lambda row: row.name, page.wanted)
    return DatabaseList(databases=rows, links=call.links.next_page(page.path, page.query, marker))


@router.post("/databases", status_code=202, response_class=Response)
@waits_for_a_host
def create_databases(
    call: Authorized, instance_id: str, body: Annotated[DatabasesCreate, Depends(BodyOf(DatabasesCreate))]
) -> Response:
    """Create databases."""
    specs = [database_spec(database) for database in body.databases]
    service.create_databases(call.deployment, call.account, instance_id, specs)
    return Response(status_code=202)


@router.delete("/databases/{name}", status_code=202, response_class=Response)
@waits_for_a_host
def delete_database(call: Authorized, instance_id: str, name: str) -> Response:
    """Drop a database."""
    check_name(_DATABASE_NAME, name, NotFound.of("Database", name))
    service.delete_database(call.deployment, call.account, instance_id, name)
    return Response(status_code=202)


def database_spec(asked: DatabaseFields) -> DatabaseSpec:
    """A new database in the form that hosts receive."""
    return DatabaseSpec(name=asked.name, character_set=asked.character_set, collate=asked.collate)


def _shown(row: Mapping[str, Any]) -> DatabaseAnswer:
    return DatabaseAnswer(name=row["name"], character_set=row.get("character_set"), collate=row.get("collate"))
