"""Routes of logins, for OpenStack's and Rackspace's clients, and the catalog of endpoints in their answers.

The id of an account or a user is its name. The only domain is ``default``.

Checking a password takes long on purpose. It runs on threads of its own, so that many logins delay no other request.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Final

from fastapi import Depends, Header
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from snaphold.api.authorization import Token, caller_of
from snaphold.api.faults import documented
from snaphold.api.links import Links
from snaphold.api.request_body import BodyOf
from snaphold.api.request_context import Context, RequestContext
from snaphold.api.route import router_of
from snaphold.api.threads import on_threads_of
from snaphold.errors import BadRequest, NotFound, Unauthorized
from snaphold.identity.base import Caller, Login
from snaphold.model import rfc3339, rfc3339_exact
from snaphold.schemas.logins import AuthFieldsV2, AuthFieldsV3, AuthV2, AuthV3

router = router_of(tags=["identity"], responses=documented(400, 401, 404, 405, 413, 415, 500, 503))
on_logins_threads = on_threads_of(ThreadPoolExecutor(8, thread_name_prefix="logins"))

_MAX_BODY_BYTES: Final = 65_536  # of a caller who has not authenticated yet
_DOMAIN: Final = {"id": "default", "name": "Default"}
_MEDIA_TYPES: Final = {
    "v2.0": "application/vnd.openstack.identity-v2.0",
    "v3.14": "application/vnd.openstack.identity-v3",
}
# The catalog has the database API twice: OpenStack's clients look for one type, Rackspace's for the other.
_SERVICES: Final = (
    ("database", "trove"),
    ("rax:database", "cloudDatabases"),
    ("object-store", "cloudFiles"),
)
_INTERFACES: Final = ("public", "internal", "admin")  # the same URL, because clients choose different ones


@router.get("/v2.0")
@router.get("/v2.0/", include_in_schema=False)
def show_v2(context: Context) -> dict[str, Any]:
    """Show the identity API v2.0."""
    return _version(context.links, "v2.0", "v2.0")


@router.get("/v3")
@router.get("/v3/", include_in_schema=False)
def show_v3(context: Context) -> dict[str, Any]:
    """Show the identity API v3."""
    return _version(context.links, "v3", "v3.14")


@router.post("/v2.0/tokens")
@on_logins_threads
def log_in_v2(context: Context, body: Annotated[AuthV2, Depends(BodyOf(AuthV2, _MAX_BODY_BYTES))]) -> dict[str, Any]:
    """Log in by password or by API key."""
    login = _log_in_v2(context, body.auth)
    caller = login.caller
    return {
        "access": {
            "token": {
                "id": login.token,
                "issued_at": rfc3339(caller.issued_us),
                "expires": rfc3339(caller.expires_us),
                "tenant": {"id": caller.account, "name": caller.account, "enabled": True},
                "RAX-AUTH:authenticatedBy": ["APIKEY" if body.auth.api_key is not None else "PASSWORD"],
            },
            "user": {
                "id": caller.user,
                "name": caller.user,
                "username": caller.user,
                "roles": _roles(caller),
                "RAX-AUTH:defaultRegion": context.deployment.region,
            },
            "serviceCatalog": [
                {
                    "type": kind,
                    "name": name,
                    "endpoints": [
                        {"region": region, "tenantId": caller.account} | {f"{each}URL": url for each in _INTERFACES}
                        for region, url in _endpoints(context, kind, caller.account)
                    ],
                }
                for kind, name in _SERVICES
            ],
            "metadata": {"is_admin": 0, "roles": sorted(caller.roles)},
        }
    }


@router.post("/v3/auth/tokens", status_code=201)
@on_logins_threads
def log_in_v3(context: Context, body: Annotated[AuthV3, Depends(BodyOf(AuthV3, _MAX_BODY_BYTES))]) -> JSONResponse:
    """Log in by password. The answer has the token in the header ``X-Subject-Token``."""
    login = _log_in_v3(context, body.auth)
    return JSONResponse(_token_v3(context, login.caller), 201, {"X-Subject-Token": login.token})


@router.get("/v3/auth/tokens")
async def show_token(
    context: Context,
    token: Token,
    subject: Annotated[str | None, Header(alias="X-Subject-Token")] = None,
) -> JSONResponse:
    """Show the user and the account of a token of the caller's own account."""
    if subject is None:
        await caller_of(context, token)
        raise BadRequest("X-Subject-Token is required")
    shown = await _own_token(context, token, subject)
    return JSONResponse(_token_v3(context, shown), 200, {"X-Subject-Token": subject})


@router.delete("/v3/auth/tokens", status_code=204)
async def end_token_v3(
    context: Context,
    token: Token,
    subject: Annotated[str | None, Header(alias="X-Subject-Token")] = None,
) -> Response:
    """Log out: revoke a token of the caller's own account, in every region."""
    if subject is None:
        await caller_of(context, token)
        raise BadRequest("X-Subject-Token is required")
    return await _end_token(context, token, subject)


@router.delete("/v2.0/tokens/{token_id}", status_code=204)
async def end_token_v2(context: Context, token: Token, token_id: str) -> Response:
    """Log out: revoke a token of the caller's own account, in every region."""
    return await _end_token(context, token, token_id)


async def _end_token(context: RequestContext, token: str | None, subject: str) -> Response:
    await _own_token(context, token, subject)
    await run_in_threadpool(context.identity.end, subject)
    return Response(status_code=204)


async def _own_token(context: RequestContext, token: str | None, subject: str) -> Caller:
    """The caller of a token of this caller's own account. Raises ``NotFound`` for any other token."""
    caller = await caller_of(context, token)
    try:
        found = await caller_of(context, subject)
    except Unauthorized:
        found = None
    if found is None or found.account != caller.account:
        raise NotFound("The token cannot be found.")
    return found


def _log_in_v2(context: RequestContext, asked: AuthFieldsV2) -> Login:
    account = _account(asked.tenant_id, asked.tenant_name)
    if asked.password is not None:
        return context.identity.authenticate_password(asked.password.username, asked.password.password, account)
    if asked.api_key is not None:
        return context.identity.authenticate_api_key(asked.api_key.username, asked.api_key.api_key, account)
    return _same_token(context, asked.token.id if asked.token is not None else "", account)


def _log_in_v3(context: RequestContext, asked: AuthFieldsV3) -> Login:
    project = asked.scope.project if asked.scope is not None else None
    account = None if project is None else _account(project.id, project.name)
    password, token = asked.identity.password, asked.identity.token
    if "password" in asked.identity.methods and password is not None:
        name = password.user.name or password.user.id or ""
        return context.identity.authenticate_password(name, password.user.password, account)
    return _same_token(context, token.id if token is not None else "", account)


def _same_token(context: RequestContext, token: str, account: str | None) -> Login:
    """The answer to a valid token is the token itself: its account is the only possible one, and its expiry stays."""
    caller = context.identity.validate(token)
    if account not in (None, caller.account):
        raise Unauthorized("The token is of another account.")
    return Login(token=token, caller=caller)


def _account(by_id: str | None, by_name: str | None) -> str | None:
    if by_id is not None and by_name is not None and by_id != by_name:
        raise Unauthorized("Unable to authenticate user with credentials provided.")
    return by_id if by_id is not None else by_name


def _endpoints(context: RequestContext, kind: str, account: str) -> list[tuple[str, str]]:
    every = ((region, Links(endpoint=endpoint)) for region, endpoint in sorted(context.regions.items()))
    if kind == "object-store":
        return [(region, links.storage(account)) for region, links in every]
    return [(region, links.database_api(account)) for region, links in every]


def _roles(caller: Caller) -> list[dict[str, str]]:
    return [{"id": role, "name": role} for role in sorted(caller.roles)]


def _token_v3(context: RequestContext, caller: Caller) -> dict[str, Any]:
    return {
        "token": {
            "methods": ["password"],
            "user": {"id": caller.user, "name": caller.user, "domain": _DOMAIN, "password_expires_at": None},
            "project": {"id": caller.account, "name": caller.account, "domain": _DOMAIN},
            "is_domain": False,
            "roles": _roles(caller),
            "issued_at": rfc3339_exact(caller.issued_us),
            "expires_at": rfc3339_exact(caller.expires_us),
            "audit_ids": [],
            "catalog": [
                {
                    "id": kind,
                    "type": kind,
                    "name": name,
                    "endpoints": [
                        {
                            "id": f"{kind}-{region}-{interface}",
                            "interface": interface,
                            "region": region,
                            "region_id": region,
                            "url": url,
                        }
                        for region, url in _endpoints(context, kind, caller.account)
                        for interface in _INTERFACES
                    ],
                }
                for kind, name in _SERVICES
            ],
        }
    }


def _version(links: Links, path: str, version: str) -> dict[str, Any]:
    return {
        "version": {
            "id": version,
            "status": "stable",
            "updated": "2020-04-07T00:00:00Z",
            "links": [{"rel": "self", "href": f"{links.endpoint}/{path}/"}],
            "media-types": [{"base": "application/json", "type": f"{_MEDIA_TYPES[version]}+json"}],
        }
    }
