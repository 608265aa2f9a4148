"""The other regions' side of the API, ``/peer/v1`` (snaphold.protocol): not for clients.

Peers prove who they are by this region's peer token. It runs on threads of its own: two regions that ask each other
wait for no thread that the other's answer needs.
"""

import hashlib
import hmac
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from snaphold.api.desk import AtDesk, desk_of, on_threads_of
from snaphold.api.reading import BodyOf
from snaphold.errors import ObjectMissing, Unauthorized, Unprocessable
from snaphold.protocol import PeerAnswer, PeerQuestion, PeerRecord
from snaphold.service import copies as service

_MAX_BODY_BYTES: Final = 1 << 20

router = APIRouter(prefix="/peer/v1", include_in_schema=False)
on_peers_threads = on_threads_of(ThreadPoolExecutor(8, thread_name_prefix="peers"))

Credentials = Annotated[HTTPAuthorizationCredentials | None, Security(HTTPBearer(auto_error=False, scheme_name="peer"))]


async def peer_of(request: Request, credentials: Credentials) -> None:
    """Raises ``Unauthorized`` when it is no peer that speaks."""
    expected = desk_of(request).peer_token
    given = "" if credentials is None else credentials.credentials
    if expected is None or not hmac.compare_digest(_digest(given), _digest(expected)):
        raise Unauthorized("The request carries no bearer token of a peer.")


FromPeer = Depends(peer_of)


@router.post("/copies", dependencies=[FromPeer])
@on_peers_threads
def copies(
    desk: AtDesk, question: Annotated[PeerQuestion, Depends(BodyOf(PeerQuestion, _MAX_BODY_BYTES))]
) -> PeerAnswer:
    """Which of the asking region's backups are here."""
    return service.answer_peer(desk.deployment, question)


@router.post("/record", dependencies=[FromPeer])
@on_peers_threads
def record(
    desk: AtDesk, message: Annotated[PeerRecord, Depends(BodyOf(PeerRecord, _MAX_BODY_BYTES))]
) -> dict[str, str]:
    """A copy is whole: its manifest is looked for in this region's own store."""
    try:
        document = b"".join(desk.objects.get(message.account, f"{message.id}.json", 0, None))
    except ObjectMissing as error:
        raise Unprocessable(f"The manifest of backup {message.id} is not here.") from error
    if hashlib.sha256(document).hexdigest() != message.manifest_sha256:
        raise Unprocessable(f"The manifest of backup {message.id} is another one.")
    service.record_copy(desk.deployment, message)
    return {}


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
