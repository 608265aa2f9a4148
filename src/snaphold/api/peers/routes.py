"""Routes of copies between regions.

A peer authenticates by a secret, and may act only for the regions that have this secret. The routes run on threads of
their own, so that two regions that ask each other never wait for a thread that the other's answer needs.
"""

import asyncio
import functools
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from snaphold.api.peers.containers import container_routes
from snaphold.api.request_body import BodyOf
from snaphold.api.request_context import Context, RequestContext, context_of
from snaphold.api.stored import store_checks
from snaphold.api.stores import Container
from snaphold.api.threads import on_threads_of
from snaphold.errors import Forbidden, Unauthorized, Unprocessable
from snaphold.identity.base import Right
from snaphold.protocol import (
    Nothing,
    PeerAnnouncement,
    PeerAnswer,
    PeerQuery,
    PeerRecord,
    PeerWithdrawal,
    PeerWithdrawn,
)
from snaphold.service import incoming_copies as service

_MAX_BODY_BYTES: Final = 1 << 20

router = APIRouter(prefix="/peer/v1", include_in_schema=False)
on_peers_threads = on_threads_of(ThreadPoolExecutor(8, thread_name_prefix="peers"))
record_copy = on_peers_threads(service.record_copy)

Credentials = Annotated[HTTPAuthorizationCredentials | None, Security(HTTPBearer(auto_error=False, scheme_name="peer"))]


async def regions_of(request: Request, credentials: Credentials) -> AbstractSet[str]:
    """The regions that the caller may act for. Raises ``Unauthorized`` if the caller is not a peer."""
    known = context_of(request).known_peers
    regions = set() if known is None or credentials is None else known.regions_of(credentials.credentials)
    if not regions:
        raise Unauthorized("The request carries no bearer token of a peer.")
    return regions


Regions = Annotated[AbstractSet[str], Depends(regions_of)]


@dataclass(frozen=True, kw_only=True)
class PeerAccess:
    """What a peer may do with objects. Implements ``containers.Access``."""

    context: RequestContext
    regions: AbstractSet[str]

    @property
    def bodies(self) -> asyncio.Semaphore:
        """Shared by all peers."""
        return self.context.peer_bodies

    def reading(self, account: str, name: str) -> Container:
        """The container, to read an object of a copy that the peer makes or shares. Raises ``Forbidden``."""
        service.check_read(self.context.deployment, self.regions, account, name)
        return self.context.containers(account)

    def writing(self, account: str, name: str, number: int = 0) -> Container:
        """The container, to write an object of a copy that the peer has announced. Raises ``Forbidden``."""
        service.check_write(self.context.deployment, self.regions, account, name, number)
        return self.context.containers(account)


def access_of(context: Context, regions: Regions) -> PeerAccess:
    """What the caller may do with objects."""
    return PeerAccess(context=context, regions=regions)


@router.post("/copies")
@on_peers_threads
def copies(
    context: Context, regions: Regions, question: Annotated[PeerQuery, Depends(BodyOf(PeerQuery, _MAX_BODY_BYTES))]
) -> PeerAnswer:
    """Tell which of the calling region's backups this region has."""
    _check_region(regions, question.region)
    if question.user is not None:
        _check_user(context, question.user, question.account)
    return service.answer_peer(context.deployment, question)


@router.post("/announce")
@on_peers_threads
def announce(
    context: Context,
    regions: Regions,
    message: Annotated[PeerAnnouncement, Depends(BodyOf(PeerAnnouncement, _MAX_BODY_BYTES))],
) -> Nothing:
    """Announce a copy, whose objects the caller will write."""
    _check_region(regions, message.region)
    _check_user(context, message.user, message.account)
    service.expect_copy(context.deployment, message)
    return Nothing()


@router.post("/record")
async def record(
    context: Context, regions: Regions, message: Annotated[PeerRecord, Depends(BodyOf(PeerRecord, _MAX_BODY_BYTES))]
) -> Nothing:
    """Record a complete copy. Its manifest must be in this region's own store."""
    _check_region(regions, message.made_from_region)
    check = functools.partial(context.stored_backups.fault_of_record, message)
    unfounded = await store_checks.run(message.id, context.deployment.settings.store_timeout_s, check)
    if unfounded is not None:
        raise Unprocessable(unfounded)
    await record_copy(context.deployment, message)
    return Nothing()


@router.post("/withdraw")
@on_peers_threads
def withdraw(
    context: Context,
    regions: Regions,
    message: Annotated[PeerWithdrawal, Depends(BodyOf(PeerWithdrawal, _MAX_BODY_BYTES))],
) -> PeerWithdrawn:
    """Withdraw a copy: the caller will write no more of its objects."""
    _check_region(regions, message.region)
    return service.withdraw_copy(context.deployment, message)


router.include_router(container_routes(access_of))


def _check_region(regions: AbstractSet[str], region: str) -> None:
    if region not in regions:
        raise Forbidden(f"The token is not that of region {region}.")


def _check_user(context: RequestContext, user: str | None, account: str) -> None:
    """Raise ``Forbidden`` unless the user has the right to make changes in the same account of this region."""
    if user is None or Right.WRITE not in context.identity.rights_of(user, account):
        raise Forbidden(f"User {user} may not make changes in account {account} there.")
