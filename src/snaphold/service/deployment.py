"""What every request needs: the catalog, the queue, the settings, the peers, and the wakeups of waiting threads."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from snaphold.catalog.database import Catalog, Transaction
from snaphold.config import Settings
from snaphold.model import VerificationLevel
from snaphold.protocol import PeerAnnouncement, PeerAnswer, PeerQuery, PeerRecord, PeerWithdrawal, PeerWithdrawn


class StoreGate(Protocol):
    """Checks an account's object store before a transaction begins."""

    def check(self, account: str, *, write: bool) -> None:
        """Check whether it can be read, and with ``write`` also written.

        Raises ``Forbidden`` when the store refuses the account, ``Unavailable`` when it does not answer.
        """


class Peer(Protocol):
    """Another region. Every method raises ``Unavailable`` if it does not answer and ``Refused`` if it refuses."""

    def copies(self, question: PeerQuery) -> PeerAnswer:
        """Which backups of this region are there, and whether the account may have more."""

    def announce(self, message: PeerAnnouncement) -> None:
        """Announce the objects of a copy."""

    def record(self, message: PeerRecord) -> None:
        """Record a copy whose objects are all there as a backup of that region."""

    def withdraw(self, message: PeerWithdrawal) -> PeerWithdrawn:
        """Withdraw a copy: no more of its objects will come."""


class Enqueuer(Protocol):
    """The sending side of the queue."""

    def enqueue(self, tx: Transaction, workflow: str, *ids: str) -> None:
        """Enqueue ``workflow`` with these ids for the worker, if and only if ``tx`` commits."""


class Wakeups:
    """Wakes threads of this process that wait for an event. One that misses it looks again after a while."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callbacks: dict[str, set[Callable[[], None]]] = {}

    def subscribe(self, key: str, callback: Callable[[], None]) -> None:
        """Call ``callback`` (from any thread, quickly) whenever ``key`` is notified."""
        with self._lock:
            self._callbacks.setdefault(key, set()).add(callback)

    def unsubscribe(self, key: str, callback: Callable[[], None]) -> None:
        """Remove a callback that was subscribed."""
        with self._lock:
            left = self._callbacks.get(key, set())
            left.discard(callback)
            if not left:
                self._callbacks.pop(key, None)

    def notify(self, key: str) -> None:
        """Wake those that wait for ``key``, the id of a host or of a host call."""
        with self._lock:
            callbacks = tuple(self._callbacks.get(key, ()))
        for callback in callbacks:
            callback()


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """One region of the service."""

    catalog: Catalog
    queue: Enqueuer
    settings: Settings
    region: str
    deployment_id: str
    store_gate: StoreGate
    wakeups: Wakeups = field(default_factory=Wakeups)
    peers: Mapping[str, Peer] = field(default_factory=dict)  # by region; where copies can go

    @property
    def lease_us(self) -> int:
        """The time after which a host that sends nothing counts as silent."""
        return int(self.settings.lease_s * 1_000_000)

    @property
    def verify_after_backup(self) -> VerificationLevel | None:
        """The verification that a new backup must pass before it is COMPLETED."""
        level = self.settings.verify_after_backup
        return None if level == "none" else VerificationLevel(level)
