"""Threads for the requests that wait for a host's answer, shared fairly.

An instance has one question at a time, and an account a share of the threads: however slow its servers are, other
accounts' requests find a thread. A request waits for its turn without a thread.
"""

import asyncio
import contextvars
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, ParamSpec, TypeVar

from snaphold.api.context import Call
from snaphold.errors import Unavailable

T = TypeVar("T")
P = ParamSpec("P")
_THREADS: Final = 128  # they wait, and do next to nothing else
_SHARE: Final = 8  # of an account


@dataclass(kw_only=True)
class _Line:
    """Who stands for something of which only so many may have it at a time."""

    places: asyncio.Semaphore
    standing: int = 0


class HostCalls:
    """The threads of one API process, and whose turn it is."""

    def __init__(self, threads: int = _THREADS, share: int = _SHARE) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="waits-for-a-host")
        self._share = share
        self._lines: dict[tuple[str, str], _Line] = {}

    async def run(self, account: str, instance_id: str, timeout_s: float, call: Callable[[], T]) -> T:
        """What ``call`` returns, on one of the threads. Raises ``Unavailable`` when no turn comes in time."""
        async with AsyncExitStack() as turn:
            try:
                async with asyncio.timeout(timeout_s):
                    # The instance first: who waits for it takes nothing from the account's other instances.
                    await turn.enter_async_context(self._turn(("instance", instance_id), 1))
                    await turn.enter_async_context(self._turn(("account", account), self._share))
            except TimeoutError:
                raise Unavailable(
                    f"Instance {instance_id} is still busy with earlier requests for its databases and users."
                ) from None
            return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    @asynccontextmanager
    async def _turn(self, key: tuple[str, str], places: int) -> AsyncIterator[None]:
        line = self._lines.setdefault(key, _Line(places=asyncio.Semaphore(places)))
        line.standing += 1
        try:
            async with line.places:
                yield
        finally:
            line.standing -= 1
            if not line.standing:
                del self._lines[key]


_calls: Final = HostCalls()


def waits_for_a_host(handler: Callable[P, T]) -> Callable[P, Awaitable[T]]:
    """Have a plain handler of a path below an instance (``call``, ``instance_id``) run when it is its turn."""

    @functools.wraps(handler)
    async def run(*args: P.args, **kwargs: P.kwargs) -> T:
        given: dict[str, Any] = dict(kwargs)
        caller, instance_id = given["call"], given["instance_id"]
        if not isinstance(caller, Call):
            raise TypeError("the handler takes no call")
        timeout_s = caller.deployment.settings.question_timeout_s
        call = functools.partial(contextvars.copy_context().run, handler, *args, **kwargs)
        return await _calls.run(caller.account, instance_id, timeout_s, call)

    return run
