"""What this process is doing, and has done, to each instance: it keeps tasks and the reconciler apart."""

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Iterator


class InstanceActivity:
    """One lock per instance, and the times that decide whether the reconciler may act on it.

    Times are those of ``now``, in seconds. What is known of an instance that is gone is forgotten (``forget_gone``).
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._changed = threading.Condition()
        self._busy: set[str] = set()
        self._changed_s: dict[str, float] = {}  # when the last task that changes the desired state ended
        self._retry_s: dict[str, float] = {}  # when an instance that could not be reconciled is tried again

    @contextlib.contextmanager
    def task(self, instance_id: str | None, *, changes_state: bool) -> Iterator[None]:
        """Hold the instance's lock; wait for it first. ``None``: the task needs no instance, and does not wait.

        ``changes_state``: the task may change the state that is desired of the instance (it starts or stops the server,
        say; a backup does not).
        """
        if instance_id is None:
            yield
            return
        with self._changed:
            self._changed.wait_for(lambda: instance_id not in self._busy)
            self._busy.add(instance_id)
        try:
            yield
        finally:
            if changes_state:
                with self._changed:
                    self._changed_s[instance_id] = self._now()
            self.release(instance_id)

    def acquire(self, instance_id: str, *, asked_s: float) -> bool:
        """Take the instance's lock for the reconciler, and return whether it was free to act; it never waits.

        ``asked_s``: when the state that it would bring about was asked for. It may not act when a task that changes the
        desired state has ended since: the answer is outdated. Nor before a ``postpone`` is over. Other tasks only keep
        it away while they run, however many follow each other: a server that crashed is started between them.
        """
        with self._changed:
            free = instance_id not in self._busy
            outdated = asked_s <= self._changed_s.get(instance_id, float("-inf"))
            if not free or outdated or self._now() < self._retry_s.get(instance_id, float("-inf")):
                return False
            self._busy.add(instance_id)
            return True

    def release(self, instance_id: str) -> None:
        """Give up the instance's lock."""
        with self._changed:
            self._busy.discard(instance_id)
            self._changed.notify_all()

    def postpone(self, instance_id: str, pause_s: float) -> None:
        """Keep the reconciler away from an instance for so long."""
        with self._changed:
            self._retry_s[instance_id] = self._now() + pause_s

    def forget_gone(self, present: Collection[str], *, listed_s: float) -> None:
        """Forget the instances that are not ``present``: those on the host when it was asked, at ``listed_s`` or later.

        An instance whose desired state a task has changed since then is kept: the task may have created it.
        """
        with self._changed:
            for times in (self._changed_s, self._retry_s):
                for instance_id in times.keys() - set(present) - self._busy:
                    if self._changed_s.get(instance_id, float("-inf")) < listed_s:
                        del times[instance_id]
