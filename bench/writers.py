"""Measures how a backup affects clients that write."""

import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from bench.data import connected


@dataclass
class Writer:
    """Writes single rows into InnoDB, one commit each, for as long as the context lasts."""

    instance: dict[str, Any]
    slowest_s: float = 0.0
    per_s: float = 0.0
    _ended: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._write)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _write(self) -> None:
        with connected(self.instance) as cursor:
            cursor.execute("CREATE TABLE IF NOT EXISTS written (id INT PRIMARY KEY AUTO_INCREMENT, v VARCHAR(200))")
            written = 0
            begun = time.monotonic()
            while not self._ended.is_set():
                before = time.monotonic()
                cursor.execute("INSERT INTO written (v) VALUES (REPEAT('x', 200))")
                self.slowest_s = max(self.slowest_s, time.monotonic() - before)
                written += 1
            self.per_s = written / (time.monotonic() - begun)
