"""The rate of an attempt's progress, and how much is expected."""

import time
from collections import deque
from collections.abc import Callable
from typing import Final

import structlog

_WINDOW_S: Final = 10.0  # a rate is the mean of this time
_PARTS: Final = 16  # when more is done than was expected, this fraction of it is expected to follow
_LOGGED_S: Final = 30.0  # least time between two log lines of a step; a shorter step has none
_LOGGED_PERCENT: Final = 5  # least progress between two log lines
_LONGEST_GAP_S: Final = 600.0  # after this time there is a line whatever the progress

_log = structlog.get_logger(__name__)


class ProgressRate:
    """Follows the counts of one step after the other. ``now`` returns monotonic seconds."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._expected_bytes: int | None = None
        self._logged_s = now()
        self._counts: deque[tuple[float, int]] = deque()  # (seconds, bytes) of the last ``_WINDOW_S``, the newest last
        self._logged_percent = 0

    def expect(self, expected_bytes: int) -> None:
        """Begin a step that is expected to process so many bytes."""
        self._expected_bytes = expected_bytes
        self._logged_s, self._logged_percent = self._now(), 0
        self._counts.clear()

    def note(self, done_bytes: int) -> None:
        """Record that so many bytes of the step are done. A long step is logged now and then.

        When more is done than was expected, the expectation grows beyond it: the true total is unknown then.
        """
        now = self._now()
        if self._expected_bytes is not None and done_bytes > self._expected_bytes:
            self._expected_bytes = done_bytes + -(-done_bytes // _PARTS)
        self._counts.append((now, done_bytes))
        while len(self._counts) > 2 and self._counts[1][0] <= now - _WINDOW_S:
            self._counts.popleft()
        if self._expected_bytes and (since_log_s := now - self._logged_s) >= _LOGGED_S:
            percent = min(100, 100 * done_bytes // self._expected_bytes)
            if percent - self._logged_percent >= _LOGGED_PERCENT or since_log_s >= _LONGEST_GAP_S:
                self._logged_s, self._logged_percent = now, percent
                _log.info(
                    "task.progress",
                    percent=percent,
                    done_bytes=done_bytes,
                    expected_bytes=self._expected_bytes,
                    bytes_per_s=self.bytes_per_s,
                )

    @property
    def expected_bytes(self) -> int | None:
        """How many bytes the step is expected to process; None: unknown."""
        return self._expected_bytes

    @property
    def bytes_per_s(self) -> int | None:
        """The mean rate of the last ten seconds; None while there are too few counts."""
        if len(self._counts) < 2:
            return None
        (first_s, first), (last_s, last) = self._counts[0], self._counts[-1]
        return max(0, round((last - first) / (last_s - first_s))) if last_s > first_s else None
