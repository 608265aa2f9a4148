"""Checks in this region's own store what hosts and peers report of completed backups.

The checks run on threads of their own and within a time limit. So a store that does not answer delays no other request,
above all no heartbeat.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from snaphold.errors import Transient, Unavailable

_THREADS: Final = 4


class StoreChecks:
    """The threads of one API process, and the backups that they check: each at most once at a time."""

    def __init__(self, threads: int = _THREADS) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="store-checks")
        self._running: set[str] = set()

    async def run(self, backup_id: str, timeout_s: float, check: Callable[[], str | None]) -> str | None:
        """Run the check of a backup and return its result.

        Raises ``Unavailable`` if the store does not answer in time, or if an earlier check of the backup still waits.
        """
        if backup_id in self._running:
            raise Unavailable(f"The object store has not answered yet about backup {backup_id}.")
        self._running.add(backup_id)
        future = self._pool.submit(check)
        future.add_done_callback(lambda _: self._running.discard(backup_id))
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), timeout_s)
        except (TimeoutError, Transient) as error:
            raise Unavailable("The object store does not answer.") from error


store_checks: Final = StoreChecks()
