"""Lowers the priority of background work, and limits how fast a server is read."""

import os
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

IoPriority = Literal["normal", "low", "idle"]
_IONICE: Final = {"low": ("-c", "2", "-n", "7"), "idle": ("-c", "3")}  # ionice(1)
_SAVED_S: Final = 0.25  # a stream that was late may catch up by at most this much


@dataclass(frozen=True, kw_only=True)
class Priority:
    """The priority of a thread and of the processes that it starts. ``niceness``: nice(2), 0 to 19."""

    niceness: int = 10
    io_priority: IoPriority = "normal"

    def show(self) -> None:
        """Give the calling thread this priority, or keep a lower one. Only root could raise it again.

        Raises ``OSError`` and ``subprocess.CalledProcessError`` if the system refuses.
        """
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, max(self.niceness, os.getpriority(os.PRIO_PROCESS, thread)))
        if self.io_priority != "normal":
            subprocess.run(["ionice", *_IONICE[self.io_priority], "-p", str(thread)], check=True)


class Throttle:
    """Limits a stream to ``bytes_per_s``, spread evenly over time. 0: no limit.

    ``now`` is a monotonic clock, in seconds.
    """

    def __init__(self, bytes_per_s: float, now: Callable[[], float] = time.monotonic) -> None:
        self._bytes_per_s = bytes_per_s
        self._now = now
        self._due = now()  # the time that the bytes so far should have taken

    def pause_s(self, count: int) -> float:
        """Count these bytes, and return how many seconds to wait."""
        if not self._bytes_per_s:
            return 0.0
        now = self._now()
        self._due = max(self._due, now - _SAVED_S) + count / self._bytes_per_s
        return max(0.0, self._due - now)
