"""Gates: whether an account's object store can be used now, checked before a request changes anything."""

import os
import queue
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import structlog

from snaphold.errors import Forbidden, Unavailable
from snaphold.objects import CONTAINER

_log = structlog.get_logger(__name__)


class Gate(Protocol):
    """Checks whether an account's object store can be used. Has the methods of ``service.deployment.StoreGate``."""

    def check(self, account: str, *, write: bool) -> None:
        """Check that the store can be read, and with ``write`` that it can be written to.

        Raises ``Forbidden`` when the store refuses the account, ``Unavailable`` when it does not answer.
        """


class LocalStoreGate:
    """Checks the local store below ``root``. Implements ``Gate``."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def check(self, account: str, *, write: bool) -> None:
        """Check those directories on the way to the account's objects that exist.

        A directory whose own mode denies its owner access is refused to root as well: an operator can shut an account
        out this way. A file system that is mounted read-only refuses writes.

        Raises:
            Forbidden: the account, or every account, is shut out.
            Unavailable: the store does not exist, or its disk reports an error.
        """
        try:
            for place in (self._root, self._root / account, self._root / account / CONTAINER):
                if place != self._root and not place.exists():
                    return
                if not place.is_dir():
                    raise Unavailable("The object store does not answer.")
                if not _allows(place, stat.S_IRUSR | stat.S_IXUSR, os.R_OK | os.X_OK):
                    raise Forbidden("The object store refuses this account.")
                if write and not _allows(place, stat.S_IWUSR, os.W_OK):
                    raise Forbidden("The object store can only be read by this account.")
        except PermissionError as error:
            raise Forbidden("The object store refuses this account.") from error
        except OSError as error:
            raise Unavailable("The object store does not answer.") from error


def _allows(place: Path, mode: int, access: int) -> bool:
    return place.stat().st_mode & mode == mode and os.access(place, access)


class CircuitBreaker:
    """Bounds the time that callers wait for another gate, so that a store that hangs does not hang its callers.

    After a check that took longer than ``timeout_s``, every check fails at once for ``rest_s`` seconds. Then one caller
    tries the store again; until the store answers it, the others still fail at once. The thread of a check that hangs
    lives until the store returns. ``passed_s`` is a monotonic clock in seconds.
    """

    def __init__(
        self, gate: Gate, *, timeout_s: float, rest_s: float, passed_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._gate = gate
        self._timeout_s = timeout_s
        self._rest_s = rest_s
        self._passed_s = passed_s
        self._closed_until_s = 0.0
        self._lock = threading.Lock()

    def check(self, account: str, *, write: bool) -> None:
        """Call the other gate. Raises ``Unavailable`` also when it timed out now or a moment ago."""
        with self._lock:
            if self._passed_s() < self._closed_until_s:
                raise Unavailable("The object store does not answer.")
            trial = self._closed_until_s > 0
            if trial:
                self._closed_until_s = self._passed_s() + self._rest_s
        answer: queue.Queue[Exception | None] = queue.Queue()
        threading.Thread(target=_ask, args=(self._gate, account, write, answer), name="store-gate", daemon=True).start()
        try:
            error = answer.get(timeout=self._timeout_s)
        except queue.Empty:
            with self._lock:
                self._closed_until_s = self._passed_s() + self._rest_s
            _log.warning("store.silent", account=account, asked_again_in_s=self._rest_s)
            raise Unavailable("The object store does not answer.") from None
        if trial:
            with self._lock:
                self._closed_until_s = 0.0
        if error is not None:
            raise error


def _ask(gate: Gate, account: str, write: bool, answer: "queue.Queue[Exception | None]") -> None:  # noqa: FBT001
    try:
        gate.check(account, write=write)
    except Exception as error:  # noqa: BLE001 - raised again by the caller that waits
        answer.put(error)
    else:
        answer.put(None)
