"""Answers host calls: requests to a database server whose callers wait for the answer."""

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

_RETURN_S: Final = 0.5  # reserved for the answer's way to the caller

_THREADS: Final = 16  # each may read contents.MOST_BYTES
_SHARE: Final = 2  # threads of an account

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Waiting:
    """A call that has not begun."""

    account: str
    instance_id: str
    work: Callable[[], None]


class HostCalls:
    """The threads that answer host calls: one per instance at most, and ``share`` per account at most.

    So one account's slow servers never delay another's calls. Of the calls that may begin, the next is one of the
    account that uses the fewest threads; among equals, the oldest.
    """

    def __init__(self, threads: int = _THREADS, share: int = _SHARE) -> None:
        self._pool = ThreadPoolExecutor(threads, "call")
        self._threads = threads
        self._share = share
        self._lock = threading.Lock()
        self._waiting: list[_Waiting] = []
        self._instances: set[str] = set()  # those that a call is running for
        self._accounts: Counter[str] = Counter()  # how many threads each uses

    def submit(self, account: str, instance_id: str, work: Callable[[], None]) -> None:
        """Run ``work`` as soon as the rules allow it. Raises ``RuntimeError`` after ``shutdown``."""
        with self._lock:
            self._waiting.append(_Waiting(account=account, instance_id=instance_id, work=work))
            self._begin()

    def shutdown(self) -> None:
        """Drop the calls that have not begun, and return when the others have ended."""
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
                self._accounts += Counter()  # drops zeros
                self._begin()


def answer_to(servers: Servers, session: str, call: HostCall, *, due_s: float) -> HostCallAnswer | None:
    """Perform a call in the instance's server. An error becomes an answer that names a class of ``snaphold.errors``.

    ``due_s``: until when the caller waits, by ``time.monotonic()``. When no time is left, nothing is done and the
    result is None: the API has told the caller so.
    """
    left_s = due_s - _RETURN_S - time.monotonic()
    if left_s <= 0:
        _log.info("call.expired", kind=call.kind.value, instance=call.instance_id)
        return None
    try:
        payload = servers.ask(call.instance_id, call.kind, call.payload, deadline_s=left_s)
    except Refused as error:
        return HostCallAnswer(session=session, ok=False, error=type(error).__name__, message=screened(str(error)))
    except Denied:
        message = "The instance's database server rejects the service's internal account: restart the instance."
        return HostCallAnswer(session=session, ok=False, error="Unavailable", message=message)
    except Exception as error:  # noqa: BLE001 - the caller gets an answer, whatever the error
        _log.warning(
            "call.failed",
            kind=call.kind.value,
            instance=call.instance_id,
            reason=in_full(error),
            exc_info=not isinstance(error, SnapholdError),
        )
        return HostCallAnswer(session=session, ok=False, error="Unavailable", message="The instance does not answer.")
    return HostCallAnswer(session=session, ok=True, payload=payload)
