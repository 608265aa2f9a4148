"""The other regions' side of the API, ``/peer/v1`` (snaphold.protocol, docs/reference/peer-api.md): not for clients.

A peer proves who it is by a secret, and speaks for the regions only that have this secret. It runs on threads of its
own: two regions that ask each other wait for no thread that the other's answer needs.
"""

import asyncio
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from snaphold.api.containers import container_routes
from snaphold.api.desk import AtDesk, Container, Desk, desk_of, on_threads_of
from snaphold.api.reading import BodyOf
from snaphold.api.stored import why_not_stored
from snaphold.errors import Forbidden, Unauthorized, Unprocessable
from snaphold.identity.base import Right, roles_give
from snaphold.protocol import (
    Nothing,
    PeerAnnouncement,
    PeerAnswer,
    PeerQuestion,
    PeerRecord,
    PeerWithdrawal,
    PeerWithdrawn,
)
from snaphold.service import arrivals as service

_MAX_BODY_BYTES: Final = 1 << 20

router = APIRouter(prefix="/peer/v1", include_in_schema=False)
on_peers_threads = on_threads_of(ThreadPoolExecutor(8, thread_name_prefix="peers"))

Credentials = Annotated[HTTPAuthorizationCredentials | None, Security(HTTPBearer(auto_error=False, scheme_name="peer"))]


async def regions_of(request: Request, credentials: Credentials) -> AbstractSet[str]:
    """The regions that the caller may speak for. Raises ``Unauthorized`` when it is no peer that speaks."""
    known = desk_of(request).known_peers
    regions = set() if known is None or credentials is None else known.regions_of(credentials.credentials)
    if not regions:
        raise Unauthorized("The request carries no bearer token of a peer.")
    return regions


Regions = Annotated[AbstractSet[str], Depends(regions_of)]


@dataclass(frozen=True, kw_only=True)
class PeerAccess:
    """What a peer may do to objects. Implements ``containers.Access``."""

    desk: Desk
    regions: AbstractSet[str]

    @property
    def places(self) -> asyncio.Semaphore:
        """Shared by all peers."""
        return self.desk.places

    def reading(self, account: str, name: str) -> Container:
        """The container, to read an object of a copy that the peer makes or shares."""
        service.check_read(self.desk.deployment, self.regions, account, name)
        return self.desk.containers(account)

    def writing(self, account: str, name: str, number: int = 0) -> Container:
        """The container, to write an object of a copy that the peer has announced."""
        service.check_write(self.desk.deployment, self.regions, account, name, number)
        return self.desk.containers(account)


def access_of(desk: AtDesk, regions: Regions) -> PeerAccess:
    """What the caller may do to objects."""
    return PeerAccess(desk=desk, regions=regions)


@router.post("/copies")
@on_peers_threads
def copies(
    desk: AtDesk, regions: Regions, question: Annotated[PeerQuestion, Depends(BodyOf(PeerQuestion, _MAX_BODY_BYTES))]
) -> PeerAnswer:
    """Which of the asking region's backups are here."""
    _check_region(regions, question.region)
    if question.user is not None:
        _check_user(desk, question.user, question.account)
    return service.answer_peer(desk.deployment, question)


@router.post("/announce")
@on_peers_threads
def announce(
    desk: AtDesk,
    regions: Regions,
    message: Annotated[PeerAnnouncement, Depends(BodyOf(PeerAnnouncement, _MAX_BODY_BYTES))],
) -> Nothing:
    """The objects of a copy will come."""
    _check_region(regions, message.region)
    _check_user(desk, message.user, message.account)
    service.expect_copy(desk.deployment, message)
    return Nothing()


@router.post("/record")
@on_peers_threads
def record(
    desk: AtDesk, regions: Regions, message: Annotated[PeerRecord, Depends(BodyOf(PeerRecord, _MAX_BODY_BYTES))]
) -> Nothing:
    """A copy is whole: its manifest is looked for in this region's own store."""
    _check_region(regions, message.made_from_region)
    unfounded = why_not_stored(desk.objects, message.account, message.id, message)
    if unfounded is not None:
        raise Unprocessable(unfounded)
    service.record_copy(desk.deployment, message)
    return Nothing()


@router.post("/withdraw")
@on_peers_threads
def withdraw(
    desk: AtDesk,
    regions: Regions,
    message: Annotated[PeerWithdrawal, Depends(BodyOf(PeerWithdrawal, _MAX_BODY_BYTES))],
) -> PeerWithdrawn:
    """No more objects of a copy will come."""
    _check_region(regions, message.region)
    return service.withdraw_copy(desk.deployment, message)


router.include_router(container_routes(access_of))


def _check_region(regions: AbstractSet[str], region: str) -> None:
    if region not in regions:
        raise Forbidden(f"The token is not that of region {region}.")


def _check_user(desk: Desk, user: str | None, account: str) -> None:
    """Whoever has a backup copied here must be a user of the same account here who may make changes."""
    roles = None if user is None else desk.identity.roles_of(user, account)
    if roles is None or not roles_give(roles, Right.WRITE):
        raise Forbidden(f"User {user} may not make changes in account {account} there.")
