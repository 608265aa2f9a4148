"""Measures the peak memory of the processes of a service."""

import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_LOOK_INTERVAL_S: Final = 0.02


class Memory:
    """Looks at the service's processes (not at its database servers) for as long as the context lasts.

    ``agent_bytes`` and ``all_bytes`` are peaks: of the agent with the tools it runs in Python, and of all. Pages that
    processes share are counted once (Pss).
    """

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = str(state_dir).encode()
        self.agent_bytes = 0
        self.all_bytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(_LOOK_INTERVAL_S):
            agent = every = 0
            for process in Path("/proc").glob("[0-9]*"):
                with suppress(OSError, StopIteration, ValueError):
                    words = (process / "cmdline").read_bytes().split(b"\0")
                    if b"snaphold" not in words and b"snaphold.stream.extractor" not in words:
                        continue
                    if not any(self._state_dir in word for word in words):
                        continue
                    lines = (process / "smaps_rollup").read_text("ascii").splitlines()
                    size = 1024 * int(next(line for line in lines if line.startswith("Pss:")).split()[1])
                    every += size
                    agent += size if b"agent" in words or b"snaphold.stream.extractor" in words else 0
            self.agent_bytes = max(self.agent_bytes, agent)
            self.all_bytes = max(self.all_bytes, every)
