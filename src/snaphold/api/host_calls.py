"""Threads for requests that wait for a host's answer, shared fairly.

An instance has one host call at a time, and an account a share of the threads. So other accounts' requests find a
thread, however slow one account's servers are. A request that waits for its turn occupies no thread.
"""

import asyncio
import contextvars
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, ParamSpec, TypeVar

from snaphold.api.authorization import Call
from snaphold.errors import Unavailable

T = TypeVar("T")
P = ParamSpec("P")
_THREADS: Final = 128  # they mostly wait
_SHARE: Final = 8  # threads of one account


@dataclass(kw_only=True)
class _Queue:
    """The requests for one instance or one account. ``length``: those that wait, and those that have their turn."""

    turns: asyncio.Semaphore
    length: int = 0


class HostCalls:
    """The threads of one API process, and the queues for them."""

    def __init__(self, threads: int = _THREADS, share: int = _SHARE) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="waits-for-a-host")
        self._share = share
        self._queues: dict[tuple[str, str], _Queue] = {}

    async def run(self, account: str, instance_id: str, timeout_s: float, call: Callable[[], T]) -> T:
        """Run ``call`` on one of the threads and return its result. Raises ``Unavailable`` if no turn comes in time."""
        async with AsyncExitStack() as turn:
            try:
                async with asyncio.timeout(timeout_s):
                    # The instance first: a request that waits for it must not use up the share of the account's others.
                    await turn.enter_async_context(self._turn(("instance", instance_id), 1))
                    await turn.enter_async_context(self._turn(("account", account), self._share))
            except TimeoutError:
                raise Unavailable(
                    f"Instance {instance_id} is still busy with earlier requests for its databases and users."
                ) from None
            return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    @asynccontextmanager
    async def _turn(self, key: tuple[str, str], at_once: int) -> AsyncIterator[None]:
        queue = self._queues.setdefault(key, _Queue(turns=asyncio.Semaphore(at_once)))
        queue.length += 1
        try:
            async with queue.turns:
                yield
        finally:
            queue.length -= 1
            if not queue.length:
                del self._queues[key]


_host_calls: Final = HostCalls()


def waits_for_a_host(handler: Callable[P, T]) -> Callable[P, Awaitable[T]]:
    """Decorate a plain handler below an instance (``call``, ``instance_id``) so that it runs when it has its turn."""

    @functools.wraps(handler)
    async def run(*args: P.args, **kwargs: P.kwargs) -> T:
        given: dict[str, Any] = dict(kwargs)
        call, instance_id = given["call"], given["instance_id"]
        if not isinstance(call, Call):
            raise TypeError("the handler takes no call")
        timeout_s = call.deployment.settings.question_timeout_s
        answer = functools.partial(contextvars.copy_context().run, handler, *args, **kwargs)
        return await _host_calls.run(call.account, instance_id, timeout_s, answer)

    return run
