"""The right of an attempt to go on, kept alive while it works."""

import threading
import time
from types import TracebackType
from typing import Final, Self

import structlog

from snaphold.agent.control import Control
from snaphold.agent.progress_rate import ProgressRate
from snaphold.errors import Permanent, Superseded, Transient, Unauthorized
from snaphold.protocol import Progress, Task

_NEWS_INTERVAL_S: Final = 1.0  # news of an attempt is told at most this often

_log = structlog.get_logger(__name__)


class Lease:
    """Renews the lease of one attempt from a thread of its own, and carries the attempt's news along.

    ``stop`` is set when the attempt must end: it was superseded (409), or the agent is stopping. A silent API stops
    nothing: only its answer can say that the lease was given to somebody else.
    """

    def __init__(self, control: Control, session: str, task: Task, renew_s: float) -> None:
        self.stop: Final = threading.Event()
        self.task: Final = task
        self.control: Final = control
        self._session = session
        self._renew_s = renew_s
        self.abandoned: str | None = None  # why the API wants no more of this attempt
        self._news: dict[str, str | int] = {}
        self._rate = ProgressRate()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._reporting = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._renew, name=f"lease-{task.id[:8]}", daemon=True)

    def begin(self) -> None:
        """Renew from now on, before the attempt itself begins: it may have to wait. Once at most."""
        self._thread.start()

    def end(self) -> None:
        """Renew no more."""
        self._ended.set()
        self._wake.set()
        self._thread.join()

    def __enter__(self) -> Self:
        if self._thread.ident is None:
            self.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    @property
    def going_on(self) -> bool:
        """Whether news that the attempt was abandoned would still be any."""
        return not (self.stop.is_set() or self._reporting.is_set() or self._ended.is_set())

    def withdraw(self, why: str) -> None:
        """The API wants no more of this attempt. Of one that is about to report the report's answer says so."""
        if self.going_on:
            _log.warning("attempt overtaken", task=self.task.id, attempt=self.task.attempt, answer=why)
            self.abandoned = f"this attempt was given up by the control plane ({why})"
            self.stop.set()

    def report_follows(self) -> None:
        """The attempt is about to report: from now on the answer to the report is the verdict.

        Renewals go on, for the API may be silent for long; but one that crosses the report is answered 409 too.
        """
        self._reporting.set()

    def tell(
        self,
        *,
        step: str | None = None,
        size_bytes: int | None = None,
        done_bytes: int | None = None,
        expected_bytes: int | None = None,
    ) -> None:
        """Have news told with the next renewal, within a second. Cheap: call it as often as you like."""
        news = {"step": step, "size_bytes": size_bytes, "done_bytes": done_bytes, "expected_bytes": expected_bytes}
        with self._lock:
            if expected_bytes is not None:
                self._rate.expect(expected_bytes)
            if done_bytes is not None:
                self._rate.note(done_bytes)
                news["expected_bytes"] = self._rate.expected_bytes
                news["bytes_per_s"] = self._rate.bytes_per_s
            self._news.update({name: value for name, value in news.items() if value is not None})
        self._wake.set()

    def check(self) -> None:
        """Return while the attempt may go on. Raises ``Superseded`` when ``stop`` is set."""
        if self.stop.is_set():
            raise Superseded(self.abandoned or "the agent of this host was stopped")

    def confirm(self) -> None:
        """Ask the API now whether the attempt may go on; a silent API is no objection. Raises like ``check``."""
        self._send()
        self.check()

    def _renew(self) -> None:
        last = time.monotonic()
        while not self._ended.is_set():
            self._wake.wait(max(0.0, last + self._renew_s - time.monotonic()))
            # News waits until a second has gone since the last message; the end of the attempt does not.
            if self._ended.wait(max(0.0, last + min(_NEWS_INTERVAL_S, self._renew_s) - time.monotonic())):
                return
            self._wake.clear()
            last = time.monotonic()
            self._send()

    def _send(self) -> None:
        with self._lock:
            news, self._news = self._news, {}
        message = Progress.model_validate({"session": self._session, "attempt": self.task.attempt, **news})
        try:
            self.control.progress(self.task.id, message)
        except (Transient, Unauthorized) as error:
            _log.debug("lease not renewed", task=self.task.id, error=str(error))
            with self._lock:
                self._news = news | self._news
        except (Superseded, Permanent) as error:
            self.withdraw(str(error))
