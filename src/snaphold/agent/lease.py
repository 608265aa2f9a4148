"""The lease of an attempt: its right to continue, renewed while it works."""

import threading
import time
from types import TracebackType
from typing import Final, Self

import structlog

from snaphold.agent.control import Control
from snaphold.agent.progress_rate import ProgressRate
from snaphold.errors import Permanent, Superseded, Transient, Unauthorized
from snaphold.protocol import Progress, Task

_PROGRESS_INTERVAL_S: Final = 1.0  # the least time between two renewals that carry progress

_log = structlog.get_logger(__name__)


class Lease:
    """Renews the lease of one attempt in its own thread, and sends the attempt's progress with the renewals.

    ``stop`` is set when the attempt must end, because it was superseded (409) or the agent is stopping. An API that
    does not answer stops nothing: only an answer can say that the control plane has abandoned the attempt.
    """

    def __init__(self, control: Control, session: str, task: Task, renew_s: float) -> None:
        self.stop: Final = threading.Event()
        self.task: Final = task
        self.control: Final = control
        self._session = session
        self._renew_s = renew_s
        self.abandoned: str | None = None  # why the control plane has abandoned the attempt; None: it has not
        self._progress: dict[str, str | int] = {}
        self._rate = ProgressRate()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._reporting = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._renew, name=f"lease-{task.id[:8]}", daemon=True)

    def begin(self) -> None:
        """Start the renewals, before the attempt begins: it may have to wait. Call this once at most."""
        self._thread.start()

    def end(self) -> None:
        """Stop the renewals."""
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
        """Whether the attempt could still be withdrawn: it was not stopped, is not reporting and has not ended."""
        return not (self.stop.is_set() or self._reporting.is_set() or self._ended.is_set())

    def withdraw(self, why: str) -> None:
        """Stop the attempt, which the control plane has abandoned. One that is reporting learns it from the answer."""
        if self.going_on:
            _log.warning("attempt.superseded", task=self.task.id, attempt=self.task.attempt, answer=why)
            self.abandoned = f"the control plane has abandoned this attempt ({why})"
            self.stop.set()

    def report_follows(self) -> None:
        """Note that the attempt is about to report: from now on only the answer to the report decides.

        Renewals continue, because the API may not answer for a long time. One that arrives after the report gets 409,
        which must not stop the attempt.
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
        """Send progress with the next renewal, within a second. This is cheap and may be called at any rate."""
        progress = {"step": step, "size_bytes": size_bytes, "done_bytes": done_bytes, "expected_bytes": expected_bytes}
        with self._lock:
            if expected_bytes is not None:
                self._rate.expect(expected_bytes)
            if done_bytes is not None:
                self._rate.note(done_bytes)
                progress["expected_bytes"] = self._rate.expected_bytes
                progress["bytes_per_s"] = self._rate.bytes_per_s
            self._progress.update({name: value for name, value in progress.items() if value is not None})
        self._wake.set()

    def check(self) -> None:
        """Raise ``Superseded`` when ``stop`` is set."""
        if self.stop.is_set():
            raise Superseded(self.abandoned or "the agent of this host was stopped")

    def confirm(self) -> None:
        """Renew the lease now, then ``check``. No answer counts as consent."""
        self._send()
        self.check()

    def _renew(self) -> None:
        last = time.monotonic()
        while not self._ended.is_set():
            self._wake.wait(max(0.0, last + self._renew_s - time.monotonic()))
            # Progress waits until a second has passed since the last message; the end of the attempt does not.
            if self._ended.wait(max(0.0, last + min(_PROGRESS_INTERVAL_S, self._renew_s) - time.monotonic())):
                return
            self._wake.clear()
            last = time.monotonic()
            self._send()

    def _send(self) -> None:
        with self._lock:
            progress, self._progress = self._progress, {}
        message = Progress.model_validate({"session": self._session, "attempt": self.task.attempt, **progress})
        try:
            self.control.progress(self.task.id, message)
        except (Transient, Unauthorized) as error:
            _log.debug("lease.not_renewed", task=self.task.id, error=str(error))
            with self._lock:
                self._progress = progress | self._progress
        except (Superseded, Permanent) as error:
            self.withdraw(str(error))
