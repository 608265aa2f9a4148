"""Answers to what a caller waits for."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import structlog

from snaphold.engines.base import Denied
from snaphold.errors import Refused, SnapholdError, in_full
from snaphold.host.servers import Servers
from snaphold.protocol import HostCall, HostCallAnswer
from snaphold.reasons import screened

_WAY_BACK_S: Final = 0.5  # kept for the answer to reach whoever waits

_THREADS: Final = 16  # each may read contents.MOST_BYTES
_SHARE: Final = 2  # threads of an account

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Waiting:
    """Work on a question whose turn has not come."""

    account: str
    instance_id: str
    work: Callable[[], None]


class HostCalls:
    """Threads that answer questions: one an instance at a time, and no more for an account than its share.

    So one account's slow servers never keep another's questions waiting. Of those that may begin, the one is next whose
    account has the fewest threads; of equals the one that came first.
    """

    def __init__(self, threads: int = _THREADS, share: int = _SHARE) -> None:
        self._pool = ThreadPoolExecutor(threads, "question")
        self._threads = threads
        self._share = share
        self._lock = threading.Lock()
        self._waiting: list[_Waiting] = []
        self._instances: set[str] = set()  # that answer just now
        self._accounts: Counter[str] = Counter()  # their accounts

    def submit(self, account: str, instance_id: str, work: Callable[[], None]) -> None:
        """Have this done as soon as it may. Raises ``RuntimeError`` after ``shutdown``."""
        with self._lock:
            self._waiting.append(_Waiting(account=account, instance_id=instance_id, work=work))
            self._begin()

    def shutdown(self) -> None:
        """Forget what waits, and return when all that has begun has ended."""
        with self._lock:
            self._waiting.clear()
        self._pool.shutdown(cancel_futures=True)

    def _begin(self) -> None:
        while len(self._instances) < self._threads:
            ready = [
                one
                for one in self._waiting
                if one.instance_id not in self._instances and self._accounts[one.account] < self._share
            ]
            if not ready:
                return
            chosen = min(ready, key=lambda one: self._accounts[one.account])
            self._waiting.remove(chosen)
            self._pool.submit(self._do, chosen)
            self._instances.add(chosen.instance_id)
            self._accounts[chosen.account] += 1

    def _do(self, one: _Waiting) -> None:
        try:
            one.work()
        finally:
            with self._lock:
                self._instances.discard(one.instance_id)
                self._accounts[one.account] -= 1
                self._accounts += Counter()  # without those that have none
                self._begin()


def answer_to(servers: Servers, session: str, question: HostCall, *, due_s: float) -> HostCallAnswer | None:
    """Ask the instance's server. Whatever goes wrong is an answer as well, with a class of ``snaphold.errors``.

    ``due_s``, of ``time.monotonic()``: who asked waits until then. None, and nothing is done, when there is no time
    left: they have been told that it was not done.
    """
    left_s = due_s - _WAY_BACK_S - time.monotonic()
    if left_s <= 0:
        _log.info("question too late", kind=question.kind.value, instance=question.instance_id)
        return None
    try:
        payload = servers.ask(question.instance_id, question.kind, question.payload, deadline_s=left_s)
    except Refused as error:
        return HostCallAnswer(session=session, ok=False, error=type(error).__name__, message=screened(str(error)))
    except Denied:
        message = (
            "The instance's database server does not know the service's own account any more: restart the instance."
        )
        return HostCallAnswer(session=session, ok=False, error="Unavailable", message=message)
    except Exception as error:  # noqa: BLE001 - whoever waits gets an answer, whatever it was
        _log.warning(
            "question failed",
            kind=question.kind.value,
            instance=question.instance_id,
            reason=in_full(error),
            exc_info=not isinstance(error, SnapholdError),
        )
        return HostCallAnswer(session=session, ok=False, error="Unavailable", message="The instance does not answer.")
    return HostCallAnswer(session=session, ok=True, payload=payload)
