"""Routes of hosts' agents: sessions, tasks and answers to host calls.

They run on threads of their own, so that hosts can answer however many clients wait for them.
"""

import asyncio
import contextlib
import functools
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.requests import ClientDisconnect

from snaphold.api.faults import documented
from snaphold.api.request_body import BodyOf
from snaphold.api.request_context import Context, RequestContext, context_of
from snaphold.api.stored import store_checks
from snaphold.api.threads import on_threads_of
from snaphold.errors import Unauthorized
from snaphold.protocol import Claim, Desired, Heartbeat, Hello, HostCallAnswer, Progress, Report, Welcome, Work
from snaphold.service import host_registry, outcomes, sessions

_POLL_INTERVAL_S: Final = 0.5  # because tasks from another API process wake no claim in this one
_MAX_BODY_BYTES: Final = 16 << 20  # a host may have thousands of instances

router = APIRouter(
    prefix="/agent/v1", tags=["agents"], responses=documented(400, 401, 404, 405, 409, 413, 415, 500, 503)
)
on_agents_threads = on_threads_of(ThreadPoolExecutor(16, thread_name_prefix="agents"))
authenticate = on_agents_threads(host_registry.authenticate_host)
claimed_backup = on_agents_threads(outcomes.claimed_backup)
record_report = on_agents_threads(outcomes.report)

Credentials = Annotated[HTTPAuthorizationCredentials | None, Security(HTTPBearer(auto_error=False, scheme_name="host"))]


async def host_of(request: Request, credentials: Credentials) -> str:
    """The id of the calling host. Raises ``Unauthorized``."""
    if credentials is None:
        raise Unauthorized("The request carries no bearer token of a host.")
    return await authenticate(context_of(request).deployment, credentials.credentials)


Host = Annotated[str, Depends(host_of)]


@router.post("/hello")
@on_agents_threads
def hello(context: Context, host: Host, message: Annotated[Hello, Depends(BodyOf(Hello, _MAX_BODY_BYTES))]) -> Welcome:
    """Begin a session: an agent process has started."""
    return sessions.hello(context.deployment, host, message)


@router.post("/heartbeat")
@on_agents_threads
def heartbeat(
    context: Context, host: Host, message: Annotated[Heartbeat, Depends(BodyOf(Heartbeat, _MAX_BODY_BYTES))]
) -> Desired:
    """Report that the host is alive, and get the desired states of its instances."""
    return sessions.heartbeat(context.deployment, host, message)


@router.post("/claim")
async def claim(
    request: Request, context: Context, host: Host, message: Annotated[Claim, Depends(BodyOf(Claim))]
) -> Work:
    """Claim work: at once, or as soon as there is some within ``wait_s`` seconds. The answer may be empty."""
    wakeup = asyncio.Event()
    loop = asyncio.get_running_loop()

    def wake() -> None:
        with contextlib.suppress(RuntimeError):  # the loop may be closed by now
            loop.call_soon_threadsafe(wakeup.set)

    context.deployment.wakeups.subscribe(host, wake)
    try:
        return await _claim(request, context, host, message, wakeup)
    finally:
        context.deployment.wakeups.unsubscribe(host, wake)


async def _claim(request: Request, context: RequestContext, host: str, message: Claim, wakeup: asyncio.Event) -> Work:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + message.wait_s
    while True:
        wakeup.clear()
        if await request.is_disconnected():
            raise ClientDisconnect  # work claimed now would reach nobody
        work = await claim_now(context, host, message)
        left_s = deadline - loop.time()
        if work != Work() or left_s <= 0 or context.ending.is_set():
            return work
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(wakeup.wait(), min(left_s, _POLL_INTERVAL_S))


@on_agents_threads
def claim_now(context: RequestContext, host: str, message: Claim) -> Work:
    """The work that exists now."""
    return sessions.claim(context.deployment, host, message)


@router.post("/tasks/{task_id}/progress")
@on_agents_threads
def progress(
    context: Context, host: Host, task_id: str, message: Annotated[Progress, Depends(BodyOf(Progress))]
) -> dict[str, str]:
    """Report the progress of an attempt."""
    sessions.progress(context.deployment, host, task_id, message)
    return {}


@router.post("/tasks/{task_id}/report")
async def report(
    context: Context, host: Host, task_id: str, message: Annotated[Report, Depends(BodyOf(Report))]
) -> dict[str, str]:
    """Report the end of an attempt. The store is checked for a reported backup before anything is recorded."""
    claimed = await claimed_backup(context.deployment, host, task_id, message)
    unfounded = None
    if claimed is not None:
        _, backup_id, _ = claimed
        check = functools.partial(context.stored_backups.fault_of_result, *claimed)
        unfounded = await store_checks.run(backup_id, context.deployment.settings.store_timeout_s, check)
    await record_report(context.deployment, host, task_id, message, unfounded=unfounded)
    return {}


@router.post("/questions/{call_id}/answer")
@on_agents_threads
def answer(
    context: Context,
    host: Host,
    call_id: str,
    message: Annotated[HostCallAnswer, Depends(BodyOf(HostCallAnswer, _MAX_BODY_BYTES))],
) -> dict[str, str]:
    """Answer a host call."""
    sessions.answer(context.deployment, host, call_id, message)
    return {}
