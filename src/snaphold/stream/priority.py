"""Giving way: to whoever needs the processor or the disk more, and to a server that must not be read too fast."""

import os
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

IoPriority = Literal["normal", "low", "idle"]
_IONICE: Final = {"low": ("-c", "2", "-n", "7"), "idle": ("-c", "3")}  # ionice(1)
_SAVED_S: Final = 0.25  # how much of a pause a stream may make up for afterwards


@dataclass(frozen=True, kw_only=True)
class Priority:
    """The priority of a thread and of whatever it starts. ``niceness``: nice(2), 0 to 19."""

    niceness: int = 10
    io_priority: IoPriority = "normal"

    def show(self) -> None:
        """Give the calling thread this priority, or leave it a lower one. For good: only root could take it back.

        Raises ``OSError`` and ``subprocess.CalledProcessError`` where the system does not let it.
        """
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, max(self.niceness, os.getpriority(os.PRIO_PROCESS, thread)))
        if self.io_priority != "normal":
            subprocess.run(["ionice", *_IONICE[self.io_priority], "-p", str(thread)], check=True)


class Throttle:
    """Spreads bytes evenly over time: at most ``bytes_per_s`` of them, 0 meaning as many as come.

    ``now`` tells seconds that only grow.
    """

    def __init__(self, bytes_per_s: float, now: Callable[[], float] = time.monotonic) -> None:
        self._bytes_per_s = bytes_per_s
        self._now = now
        self._due = now()  # when all that has passed would have taken its time

    def pause_s(self, count: int) -> float:
        """How long to wait now that ``count`` bytes more have passed."""
        if not self._bytes_per_s:
            return 0.0
        now = self._now()
        self._due = max(self._due, now - _SAVED_S) + count / self._bytes_per_s
        return max(0.0, self._due - now)
