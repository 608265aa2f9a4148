"""Threads of their own for handlers that wait, so that they occupy none that other handlers need."""

import asyncio
import contextvars
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Executor
from typing import ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")


def on_threads_of(pool: Executor) -> Callable[[Callable[P, T]], Callable[P, Awaitable[T]]]:
    """Decorate a plain handler so that it runs on the pool's threads instead of those that handlers share.

    Handlers that wait for a host use ``host_calls.py`` instead.
    """

    def decorate(handler: Callable[P, T]) -> Callable[P, Awaitable[T]]:
        @functools.wraps(handler)
        async def run(*args: P.args, **kwargs: P.kwargs) -> T:
            call = functools.partial(contextvars.copy_context().run, handler, *args, **kwargs)
            return await asyncio.get_running_loop().run_in_executor(pool, call)

        return run

    return decorate


def streaming_on(
    on_threads: Callable[
        [Callable[[Iterator[bytes]], bytes | None]], Callable[[Iterator[bytes]], Awaitable[bytes | None]]
    ],
) -> Callable[[Iterator[bytes]], AsyncIterator[bytes]]:
    """Return a function that streams a body. Each piece is read on these threads (``on_threads_of``) when needed."""

    @on_threads
    def next_of(pieces: Iterator[bytes]) -> bytes | None:
        return next(pieces, None)

    async def stream(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
        while (piece := await next_of(pieces)) is not None:
            yield piece

    return stream
