"""What every request needs at hand: the catalog, the queue, the settings, and who is waiting for what."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from snaphold.catalog.database import Catalog, Transaction
from snaphold.config import Settings
from snaphold.model import VerificationLevel
from snaphold.protocol import PeerAnnouncement, PeerAnswer, PeerQuery, PeerRecord, PeerWithdrawal, PeerWithdrawn


class StoreGate(Protocol):
    """Whether an account's object store can be used now, asked before a transaction begins."""

    def check(self, account: str, *, write: bool) -> None:
        """Whether it can be read, and with ``write`` written too.

        Raises ``Forbidden`` when the store refuses the account, ``Unavailable`` when it does not answer.
        """


class Peer(Protocol):
    """Another region. Every method raises ``Unavailable`` when it is silent and ``Refused`` when it refuses."""

    def copies(self, question: PeerQuery) -> PeerAnswer:
        """Which of our backups are there, and whether one more may come."""

    def announce(self, message: PeerAnnouncement) -> None:
        """Say that the objects of a copy will come."""

    def record(self, message: PeerRecord) -> None:
        """Have a copy whose objects are all there made a backup of that region."""

    def withdraw(self, message: PeerWithdrawal) -> PeerWithdrawn:
        """Say that no more objects of a copy will come."""


class Enqueuer(Protocol):
    """The queue, as far as a request needs it."""

    def enqueue(self, tx: Transaction, workflow: str, *ids: str) -> None:
        """Have the worker run ``workflow`` with these ids, if and only if ``tx`` commits."""


class Wakeups:
    """Tells threads of this process that something may have happened; who misses it looks again in a while."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callbacks: dict[str, set[Callable[[], None]]] = {}

    def subscribe(self, key: str, callback: Callable[[], None]) -> None:
        """Call ``callback`` (from any thread, quickly) whenever ``key`` is notified."""
        with self._lock:
            self._callbacks.setdefault(key, set()).add(callback)

    def unsubscribe(self, key: str, callback: Callable[[], None]) -> None:
        """No longer."""
        with self._lock:
            left = self._callbacks.get(key, set())
            left.discard(callback)
            if not left:
                self._callbacks.pop(key, None)

    def notify(self, key: str) -> None:
        """Something may have happened to ``key`` (a host's or a question's id)."""
        with self._lock:
            callbacks = tuple(self._callbacks.get(key, ()))
        for callback in callbacks:
            callback()


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """One region of the service, as its requests see it."""

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
        """The time of silence after which a host counts as gone."""
        return int(self.settings.lease_s * 1_000_000)

    @property
    def verify_after_backup(self) -> VerificationLevel | None:
        """The verification that a new backup must pass before it is COMPLETED."""
        level = self.settings.verify_after_backup
        return None if level == "none" else VerificationLevel(level)
