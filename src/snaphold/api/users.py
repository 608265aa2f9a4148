"""Routes of an instance's users and of root. The host does the work while the caller waits (contract, section 4)."""

import secrets
from collections.abc import Mapping
from typing import Annotated, Any, Final

from fastapi import Depends, Response
from pydantic import TypeAdapter

from snaphold.api.authorization import Authorized, Call
from snaphold.api.faults import documented
from snaphold.api.host_calls import waits_for_a_host
from snaphold.api.names import check_name, split_user
from snaphold.api.paging import Paged, page_by_key
from snaphold.api.request_body import BodyOf
from snaphold.api.request_context import PasswordHash
from snaphold.api.route import router_of
from snaphold.errors import NotFound
from snaphold.protocol import UserChange, UserSpec
from snaphold.schemas.databases import DatabaseName
from snaphold.schemas.users import (
    ANY_HOST,
    GrantList,
    PasswordsChange,
    RootEnabled,
    RootShown,
    RootUser,
    UserAnswer,
    UserChanged,
    UserFields,
    UserGrants,
    UserList,
    UsersCreate,
    UserShown,
    ValidUserName,
)
from snaphold.service import databases as service
from snaphold.service import instances

router = router_of(
    prefix="/v1.0/{account}/instances/{instance_id}",
    tags=["databases and users"],
    responses=documented(400, 401, 403, 404, 405, 413, 415, 422, 500, 501, 503),
)

_ROOT_PASSWORD_BYTES: Final = 18
_USER_NAME: Final[TypeAdapter[str]] = TypeAdapter(ValidUserName)


@router.get("/users")
@waits_for_a_host
def list_users(call: Authorized, instance_id: str, page: Paged) -> UserList:
    """List the users that clients created, by name."""
    found = [_shown(row) for row in service.list_users(call.deployment, call.account, instance_id)]
    rows, marker = page_by_key(found, lambda row: f"{row.name}\0{row.host}", page.wanted)
    return UserList(users=rows, links=call.links.next_page(page.path, page.query, marker))


@router.post("/users", status_code=202, response_class=Response)
@waits_for_a_host
def create_users(
    call: Authorized, instance_id: str, body: Annotated[UsersCreate, Depends(BodyOf(UsersCreate))]
) -> Response:
    """Create users with all rights on their databases."""
    password_hash = _hash_for(call, instance_id)
    specs = [user_spec(user, password_hash) for user in body.users]
    service.create_users(call.deployment, call.account, instance_id, specs)
    return Response(status_code=202)


@router.get("/users/{name}")
@waits_for_a_host
def show_user(call: Authorized, instance_id: str, name: str) -> UserShown:
    """Show a user. ``name`` may be ``user@host``."""
    return UserShown(user=_find_user(call, instance_id, name))


@router.delete("/users/{name}", status_code=202, response_class=Response)
@waits_for_a_host
def delete_user(call: Authorized, instance_id: str, name: str) -> Response:
    """Drop a user. ``name`` may be ``user@host``."""
    user, host = _named_user(name)
    service.delete_user(call.deployment, call.account, instance_id, user, host)
    return Response(status_code=202)


@router.put("/users", status_code=202, response_class=Response)
@waits_for_a_host
def change_passwords(
    call: Authorized, instance_id: str, body: Annotated[PasswordsChange, Depends(BodyOf(PasswordsChange))]
) -> Response:
    """Change the passwords of users."""
    password_hash = _hash_for(call, instance_id)
    changes = [
        UserChange(
            name=user.name,
            host=user.host or ANY_HOST,
            password_hash=password_hash(user.password.get_secret_value()),
        )
        for user in body.users
    ]
    service.change_users(call.deployment, call.account, instance_id, changes)
    return Response(status_code=202)


@router.put("/users/{name}", status_code=202, response_class=Response)
@waits_for_a_host
def change_user(
    call: Authorized, instance_id: str, name: str, body: Annotated[UserChanged, Depends(BodyOf(UserChanged))]
) -> Response:
    """Change a user's password, name or host. ``name`` may be ``user@host``."""
    user, host = _named_user(name)
    asked, password_hash = body.user, _hash_for(call, instance_id)
    change = UserChange(
        name=user,
        host=host,
        new_name=asked.name,
        new_host=asked.host,
        password_hash=None if asked.password is None else password_hash(asked.password.get_secret_value()),
    )
    service.change_users(call.deployment, call.account, instance_id, [change])
    return Response(status_code=202)


@router.get("/users/{name}/databases")
@waits_for_a_host
def list_grants(call: Authorized, instance_id: str, name: str) -> GrantList:
    """List the databases that a user may use. ``name`` may be ``user@host``."""
    return GrantList(databases=_find_user(call, instance_id, name).databases)


@router.put("/users/{name}/databases", status_code=202, response_class=Response)
@waits_for_a_host
def grant(
    call: Authorized, instance_id: str, name: str, body: Annotated[UserGrants, Depends(BodyOf(UserGrants))]
) -> Response:
    """Grant a user all rights on databases. ``name`` may be ``user@host``."""
    user, host = _named_user(name)
    databases = list(dict.fromkeys(database.name for database in body.databases))
    service.grant(call.deployment, call.account, instance_id, name=user, host=host, databases=databases)
    return Response(status_code=202)


@router.delete("/users/{name}/databases/{database}", status_code=202, response_class=Response)
@waits_for_a_host
def revoke(call: Authorized, instance_id: str, name: str, database: str) -> Response:
    """Revoke a user's rights on a database. ``name`` may be ``user@host``."""
    user, host = _named_user(name)
    service.revoke(call.deployment, call.account, instance_id, name=user, host=host, database=database)
    return Response(status_code=202)


@router.get("/root")
@waits_for_a_host
def show_root(call: Authorized, instance_id: str) -> RootShown:
    """Show whether clients may log in as root."""
    return RootShown(rootEnabled=service.root_enabled(call.deployment, call.account, instance_id))


@router.post("/root")
@waits_for_a_host
def enable_root(call: Authorized, instance_id: str) -> RootEnabled:
    """Enable root with a new password, which is shown only in this answer.

    Root has every right on data and users, may load dumps whose views and routines belong to other users (SET USER),
    load binary logs (BINLOG REPLAY, BINLOG ADMIN) and replicate (REPLICATION SLAVE, REPLICATION SLAVE ADMIN,
    REPLICATION MASTER ADMIN, BINLOG MONITOR, SLAVE MONITOR). It has neither FILE, SUPER, SHUTDOWN, CONNECTION ADMIN
    nor READ_ONLY ADMIN.
    """
    password = secrets.token_urlsafe(_ROOT_PASSWORD_BYTES)
    password_hash = _hash_for(call, instance_id)
    service.enable_root(call.deployment, call.account, instance_id, password_hash(password))
    return RootEnabled(user=RootUser(name="root", password=password))


@router.delete("/root", status_code=202, response_class=Response)
@waits_for_a_host
def disable_root(call: Authorized, instance_id: str) -> Response:
    """Disable root: nobody can log in as root any more."""
    service.disable_root(call.deployment, call.account, instance_id)
    return Response(status_code=202)


def user_spec(asked: UserFields, password_hash: PasswordHash) -> UserSpec:
    """A new user in the form that hosts receive, its password hashed for the engine."""
    databases = dict.fromkeys(database.name for database in asked.databases or ())
    return UserSpec(
        name=asked.name,
        host=asked.host or ANY_HOST,
        password_hash=password_hash(asked.password.get_secret_value()),
        databases=list(databases),
    )


def _hash_for(call: Call, instance_id: str) -> PasswordHash:
    """The hash for the engine of this instance. Raises ``NotFound``."""
    return call.password_hash_for(instances.show_instance(call.deployment, call.account, instance_id).datastore)


def _shown(row: Mapping[str, Any]) -> UserAnswer:
    databases = [DatabaseName(name=database["name"]) for database in row["databases"]]
    return UserAnswer(name=row["name"], host=row["host"], databases=databases)


def _find_user(call: Call, instance_id: str, name: str) -> UserAnswer:
    wanted = split_user(name)
    for row in service.list_users(call.deployment, call.account, instance_id):
        if (row["name"], row["host"]) == wanted:
            return _shown(row)
    raise NotFound.of("User", name)


def _named_user(name: str) -> tuple[str, str]:
    """Name and host. Raises ``NotFound``."""
    user, host = split_user(name)
    check_name(_USER_NAME, user, NotFound.of("User", name))
    return user, host
