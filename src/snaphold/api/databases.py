"""Databases and users of an instance: its host does it while the caller waits (contract, section 4)."""

import secrets
from typing import Annotated, Any, Final

from fastapi import Depends, Response
from pydantic import TypeAdapter, ValidationError

from snaphold.api import answers, bodies
from snaphold.api.answers import (
    DatabaseList,
    GrantList,
    RootEnabled,
    RootShown,
    RootUser,
    UserAnswer,
    UserList,
    UserShown,
)
from snaphold.api.bodies import DatabasesCreate, PasswordsChange, UserChanged, UserGrants, UsersCreate
from snaphold.api.context import Call, Calling
from snaphold.api.faults import documented
from snaphold.api.host_calls import waits_for_a_host
from snaphold.api.paging import Page, Paged, page_by_key
from snaphold.api.request_body import BodyOf
from snaphold.api.route import router_of
from snaphold.errors import NotFound
from snaphold.service import databases as service

router = router_of(
    prefix="/v1.0/{account}/instances/{instance_id}",
    tags=["databases and users"],
    responses=documented(400, 401, 403, 404, 405, 413, 415, 422, 500, 501, 503),
)

_DATABASE_NAME: Final[TypeAdapter[str]] = TypeAdapter(bodies.DatabaseName)
_ROOT_PASSWORD_BYTES: Final = 18
_USER_NAME: Final[TypeAdapter[str]] = TypeAdapter(bodies.UserName)


@router.get("/databases")
@waits_for_a_host
def list_databases(call: Calling, instance_id: str, page: Paged) -> DatabaseList:
    """The databases that clients made, by name."""
    found = service.list_databases(call.deployment, call.account, instance_id)
    rows, marker = page_by_key([answers.shown_database(row) for row in found], lambda row: row.name, page.wanted)
    return DatabaseList(databases=rows, links=_next(call, page, marker))


@router.post("/databases", status_code=202, response_class=Response)
@waits_for_a_host
def create_databases(
    call: Calling, instance_id: str, body: Annotated[DatabasesCreate, Depends(BodyOf(DatabasesCreate))]
) -> Response:
    """Make databases."""
    specs = [database.spec() for database in body.databases]
    service.create_databases(call.deployment, call.account, instance_id, specs)
    return Response(status_code=202)


@router.delete("/databases/{name}", status_code=202, response_class=Response)
@waits_for_a_host
def delete_database(call: Calling, instance_id: str, name: str) -> Response:
    """Drop a database."""
    _check_name(_DATABASE_NAME, name, NotFound.of("Database", name))
    service.delete_database(call.deployment, call.account, instance_id, name)
    return Response(status_code=202)


@router.get("/users")
@waits_for_a_host
def list_users(call: Calling, instance_id: str, page: Paged) -> UserList:
    """The users that clients made, by name."""
    found = [answers.shown_user(row) for row in service.list_users(call.deployment, call.account, instance_id)]
    rows, marker = page_by_key(found, lambda row: f"{row.name}\0{row.host}", page.wanted)
    return UserList(users=rows, links=_next(call, page, marker))


@router.post("/users", status_code=202, response_class=Response)
@waits_for_a_host
def create_users(
    call: Calling, instance_id: str, body: Annotated[UsersCreate, Depends(BodyOf(UsersCreate))]
) -> Response:
    """Make users, with all rights on their databases."""
    service.create_users(call.deployment, call.account, instance_id, [user.spec() for user in body.users])
    return Response(status_code=202)


@router.get("/users/{name}")
@waits_for_a_host
def show_user(call: Calling, instance_id: str, name: str) -> UserShown:
    """One user; ``name`` may be ``user@host``."""
    return UserShown(user=_find_user(call, instance_id, name))


@router.delete("/users/{name}", status_code=202, response_class=Response)
@waits_for_a_host
def delete_user(call: Calling, instance_id: str, name: str) -> Response:
    """Drop a user; ``name`` may be ``user@host``."""
    user, host = _named_user(name)
    service.delete_user(call.deployment, call.account, instance_id, user, host)
    return Response(status_code=202)


@router.put("/users", status_code=202, response_class=Response)
@waits_for_a_host
def change_passwords(
    call: Calling, instance_id: str, body: Annotated[PasswordsChange, Depends(BodyOf(PasswordsChange))]
) -> Response:
    """Give users other passwords."""
    service.change_users(call.deployment, call.account, instance_id, [user.change() for user in body.users])
    return Response(status_code=202)


@router.put("/users/{name}", status_code=202, response_class=Response)
@waits_for_a_host
def change_user(
    call: Calling, instance_id: str, name: str, body: Annotated[UserChanged, Depends(BodyOf(UserChanged))]
) -> Response:
    """Give a user another password, name or host; ``name`` may be ``user@host``."""
    user, host = _named_user(name)
    service.change_users(call.deployment, call.account, instance_id, [body.change(user, host)])
    return Response(status_code=202)


@router.get("/users/{name}/databases")
@waits_for_a_host
def list_grants(call: Calling, instance_id: str, name: str) -> GrantList:
    """The databases that a user may use; ``name`` may be ``user@host``."""
    return GrantList(databases=_find_user(call, instance_id, name).databases)


@router.put("/users/{name}/databases", status_code=202, response_class=Response)
@waits_for_a_host
def grant(
    call: Calling, instance_id: str, name: str, body: Annotated[UserGrants, Depends(BodyOf(UserGrants))]
) -> Response:
    """Give a user all rights on databases; ``name`` may be ``user@host``."""
    user, host = _named_user(name)
    databases = list(dict.fromkeys(database.name for database in body.databases))
    service.grant(call.deployment, call.account, instance_id, name=user, host=host, databases=databases)
    return Response(status_code=202)


@router.delete("/users/{name}/databases/{database}", status_code=202, response_class=Response)
@waits_for_a_host
def revoke(call: Calling, instance_id: str, name: str, database: str) -> Response:
    """Take a user's rights on a database; ``name`` may be ``user@host``."""
    user, host = _named_user(name)
    service.revoke(call.deployment, call.account, instance_id, name=user, host=host, database=database)
    return Response(status_code=202)


@router.get("/root")
@waits_for_a_host
def show_root(call: Calling, instance_id: str) -> RootShown:
    """Whether clients may log in as root."""
    return RootShown(rootEnabled=service.root_enabled(call.deployment, call.account, instance_id))


@router.post("/root")
@waits_for_a_host
def enable_root(call: Calling, instance_id: str) -> RootEnabled:
    """Let clients log in as root, with a new password that is shown this once.

    Root has every right on data and users, may load dumps whose views and routines belong to other users (SET USER),
    load binary logs (BINLOG REPLAY, BINLOG ADMIN) and replicate (REPLICATION SLAVE, REPLICATION SLAVE ADMIN,
    REPLICATION MASTER ADMIN, BINLOG MONITOR, SLAVE MONITOR). It has neither FILE, SUPER, SHUTDOWN, CONNECTION ADMIN
    nor READ_ONLY ADMIN.
    """
    password = secrets.token_urlsafe(_ROOT_PASSWORD_BYTES)
    service.enable_root(call.deployment, call.account, instance_id, bodies.native_hash(password))
    return RootEnabled(user=RootUser(name="root", password=password))


@router.delete("/root", status_code=202, response_class=Response)
@waits_for_a_host
def disable_root(call: Calling, instance_id: str) -> Response:
    """Let nobody log in as root any more."""
    service.disable_root(call.deployment, call.account, instance_id)
    return Response(status_code=202)


def split_user(name: str) -> tuple[str, str]:
    """A user's name and host, of ``user``, ``user@`` and ``user@host``; without a host it is ``%``."""
    user, at, host = name.rpartition("@")
    if not at:
        return name, "%"
    return user, host or "%"


def _find_user(call: Call, instance_id: str, name: str) -> UserAnswer:
    wanted = split_user(name)
    for row in service.list_users(call.deployment, call.account, instance_id):
        if (row["name"], row["host"]) == wanted:
            return answers.shown_user(row)
    raise NotFound.of("User", name)


def _named_user(name: str) -> tuple[str, str]:
    """Name and host. Raises ``NotFound``."""
    user, host = split_user(name)
    _check_name(_USER_NAME, user, NotFound.of("User", name))
    return user, host


def _check_name(form: TypeAdapter[str], name: str, not_found: NotFound) -> None:
    """Names that clients cannot have made, system ones above all, are simply not there."""
    try:
        form.validate_python(name)
    except ValidationError:
        raise not_found from None


def _next(call: Call, page: Page, marker: str | None) -> Any:
    return answers.next_links(None if marker is None else call.links.next_page(page.path, page.query, marker))
