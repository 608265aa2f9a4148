"""Lets reads run one at a time. Side by side they hand over the interpreter's lock at each row.

Benchmark: the rows "shows a second" and "lists of 20 a second" of bench/results.md (``bench/api.py``). Without
this module a list took a third more processor time beside three others.
"""

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_MAX_ATTEMPTS: Final = 20  # because a lock is not fair


class ReadSerializer:
    """Lets threads do something one after the other, but lets no thread wait long for a slow one.

    ``seconds``: the time that each thread has for itself. Once it is over, the others run beside it, without a turn.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._started_s = math.inf  # when the current turn began

    @contextmanager
    def next(self) -> Iterator[None]:
        """Wait for a turn as long as the current one has time left, then run the body."""
        has_turn = self._take()
        try:
            yield
        finally:
            if has_turn:
                self._started_s = math.inf
                self._lock.release()

    def _take(self) -> bool:
        for _ in range(_MAX_ATTEMPTS):
            left_s = min(self._seconds, self._started_s + self._seconds - time.monotonic())
            if self._lock.acquire(timeout=max(0.0, left_s)):
                self._started_s = time.monotonic()
                return True
            if time.monotonic() >= self._started_s + self._seconds:
                return False
        return False


reads: Final = ReadSerializer(0.05)
