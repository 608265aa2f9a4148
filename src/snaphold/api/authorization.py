"""Who is calling, and whether they may: first the token is checked, then the account, then the right."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader
from starlette.concurrency import run_in_threadpool

from snaphold.api.links import Links
from snaphold.api.request_context import PasswordHash, RequestContext, context_of
from snaphold.errors import Forbidden, Unauthorized
from snaphold.identity.base import Caller, Right
from snaphold.model import datastore_id
from snaphold.service import limits
from snaphold.service.deployment import Deployment

_RIGHTS: Final = {"GET": Right.READ, "HEAD": Right.READ, "DELETE": Right.DELETE}
_VERBS: Final = {Right.READ: "read", Right.WRITE: "make changes", Right.DELETE: "delete"}

Token = Annotated[str | None, Security(APIKeyHeader(name="X-Auth-Token", auto_error=False, scheme_name="token"))]


@dataclass(frozen=True, kw_only=True)
class Call:
    """An authorized request of a caller for its own account."""

    deployment: Deployment
    caller: Caller
    links: Links
    password_hashes: Mapping[str, PasswordHash]

    @property
    def account(self) -> str:
        """The caller's account, which is the path's too."""
        return self.caller.account

    def password_hash_for(self, datastore: str | None) -> PasswordHash:
        """The function that hashes passwords of database users for a datastore, given by its name or id.

        None or an unknown datastore, which the service refuses, gets the first function.
        """
        wanted = None if datastore is None else datastore.lower()
        for name, password_hash in self.password_hashes.items():
            if wanted in {None, name, datastore_id(name)}:
                return password_hash
        return next(iter(self.password_hashes.values()))


async def caller_of(context: RequestContext, token: str | None) -> Caller:
    """The caller of a token. Raises ``Unauthorized`` if it is missing, unknown or expired."""
    if not token:
        raise Unauthorized("The request carries no X-Auth-Token.")
    version = context.identity.version()
    return await context.token_cache.get(token, version, lambda: run_in_threadpool(context.identity.validate, token))


async def authorize(request: Request, account: str, token: Token) -> Call:
    """Authorize a request for a route below ``/v1.0/{account}``.

    Raises:
        Unauthorized: the token is missing, unknown or expired.
        Forbidden: the account is another one, or the caller has not the right that the method needs.
        OverLimit: reads are limited, and this is one too many.
    """
    context = context_of(request)
    caller = await caller_of(context, token)
    check_account(caller, account)
    check_right(caller, request.method)
    if context.deployment.settings.reads_per_minute and request.method in {"GET", "HEAD"}:
        await run_in_threadpool(limits.count_read, context.deployment, account)
    return Call(
        deployment=context.deployment,
        caller=caller,
        links=context.links,
        password_hashes=context.password_hashes,
    )


Authorized = Annotated[Call, Depends(authorize)]


def check_account(caller: Caller, account: str) -> None:
    """Raise ``Forbidden`` if the path's account is not the caller's."""
    if caller.account != account:
        raise Forbidden(f"User with tenant id {caller.account} cannot access this resource.")


def check_right(caller: Caller, method: str) -> None:
    """Raise ``Forbidden`` if the caller's roles do not give the right that the method needs."""
    right = _RIGHTS.get(method, Right.WRITE)
    if not caller.may(right):
        raise Forbidden(f"The roles of user {caller.user} do not give the right to {_VERBS[right]}.")
