"""How fast an attempt gets on, and when it will be done."""

import time
from collections import deque
from collections.abc import Callable
from typing import Final

import structlog

_WINDOW_S: Final = 10.0  # the time that a rate is of
_PARTS: Final = 16  # of what is done, one is expected to follow when it is more than was expected
_LOGGED_S: Final = 30.0  # between two lines of a long step, at least; a shorter one has none
_LOGGED_PERCENT: Final = 5  # so much more is worth a line
_SILENT_S: Final = 600.0  # after so long there is one in any case

_log = structlog.get_logger(__name__)


class ProgressRate:
    """Takes the counts of one step as they come. ``now`` tells seconds that only grow."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._expected_bytes: int | None = None
        self._logged_s = now()
        self._counts: deque[tuple[float, int]] = deque()  # the newest, and those of the window before it
        self._logged_percent = 0

    def expect(self, expected_bytes: int) -> None:
        """A step begins that has so many bytes before it."""
        self._expected_bytes = expected_bytes
        self._logged_s, self._logged_percent = self._now(), 0
        self._counts.clear()

    def note(self, done_bytes: int) -> None:
        """So many bytes are done by now. A long step says so in the log now and then.

        When they are more than was expected, more is expected than they are: how much more nobody can tell.
        """
        now = self._now()
        if self._expected_bytes is not None and done_bytes > self._expected_bytes:
            self._expected_bytes = done_bytes + -(-done_bytes // _PARTS)
        self._counts.append((now, done_bytes))
        while len(self._counts) > 2 and self._counts[1][0] <= now - _WINDOW_S:
            self._counts.popleft()
        if self._expected_bytes and (silent_s := now - self._logged_s) >= _LOGGED_S:
            percent = min(100, 100 * done_bytes // self._expected_bytes)
            if percent - self._logged_percent >= _LOGGED_PERCENT or silent_s >= _SILENT_S:
                self._logged_s, self._logged_percent = now, percent
                _log.info(
                    "progress",
                    percent=percent,
                    done_bytes=done_bytes,
                    expected_bytes=self._expected_bytes,
                    bytes_per_s=self.bytes_per_s,
                )

    @property
    def expected_bytes(self) -> int | None:
        """How many bytes the step has, by what is known now; None: nobody has told."""
        return self._expected_bytes

    @property
    def bytes_per_s(self) -> int | None:
        """Of the last ten seconds; None while there is too little to tell it from."""
        if len(self._counts) < 2:
            return None
        (first_s, first), (last_s, last) = self._counts[0], self._counts[-1]
        return max(0, round((last - first) / (last_s - first_s))) if last_s > first_s else None
