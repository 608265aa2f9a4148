"""Brings database servers to their desired states: those that should run do, and deleted instances go."""

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Literal

import structlog

from snaphold.agent.instance_activity import InstanceActivity
from snaphold.errors import SnapholdError, in_full
from snaphold.host.servers import Servers

_THREADS: Final = 4

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class DesiredStates:
    """The states of instances that a region's catalog wants, and when it was asked (``time.monotonic()``)."""

    asked_s: float
    instances: Mapping[str, Literal["running", "stopped", "absent"]]


class Reconciler:
    """Starts, stops and deletes servers whose state is not the desired one.

    ``fault_pause_s``: how long a server that could not be reconciled is left alone.
    """

    def __init__(self, servers: Servers, activity: InstanceActivity, *, fault_pause_s: float) -> None:
        self._servers = servers
        self._activity = activity
        self._fault_pause_s = fault_pause_s
        self._pool = ThreadPoolExecutor(_THREADS, "reconcile")

    def reconcile(self, regions: Iterable[DesiredStates]) -> None:
        """Compare every instance on this host with each region's desired states, and begin what is needed.

        Returns without waiting for what it began. Raises when the instances cannot be listed.
        """
        listed_s = time.monotonic()
        present = set(self._servers.ids())
        self._activity.forget_gone(present, listed_s=listed_s)
        for desired in regions:
            for instance_id, state in desired.instances.items():
                if instance_id in present:
                    self._reconcile(instance_id, state, desired.asked_s)

    def shutdown(self) -> None:
        """Begin nothing more, and return when everything that has begun has ended."""
        self._pool.shutdown(cancel_futures=True)

    def _reconcile(self, instance_id: str, state: Literal["running", "stopped", "absent"], asked_s: float) -> None:
        action = self._action(instance_id, state)
        if action is None or not self._activity.acquire(instance_id, asked_s=asked_s):
            return
        try:
            self._pool.submit(self._run, instance_id, action)
        except RuntimeError:  # the pool is shut down
            self._activity.release(instance_id)
            raise

    def _action(self, instance_id: str, state: Literal["running", "stopped", "absent"]) -> Callable[[str], None] | None:
        """What brings the instance to this state; None if it is in it."""
        if state == "absent":
            return self._servers.delete
        if (state == "running") == self._servers.running(instance_id):
            return None
        return self._servers.start if state == "running" else self._servers.stop

    def _run(self, instance_id: str, action: Callable[[str], None]) -> None:
        try:
            action(instance_id)
        except Exception as error:  # noqa: BLE001 - nobody waits for the result, and it is tried again
            _log.warning(
                "instance.not_reconciled",
                instance=instance_id,
                action=action.__name__,
                reason=in_full(error),
                exc_info=not isinstance(error, SnapholdError),
            )
            self._activity.postpone(instance_id, self._fault_pause_s)
        else:
            _log.info("instance.reconciled", instance=instance_id, action=action.__name__)
        finally:
            self._activity.release(instance_id)
