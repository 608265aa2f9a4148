"""The worker of one region: runs the queue, gives silent hosts' work up, sweeps behind them."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from snaphold.errors import SnapholdError
from snaphold.queue import QueueRunner
from snaphold.service.deployment import Deployment
from snaphold.service.hosts import reap
from snaphold.store.base import Stores
from snaphold.worker.deletion import Remover

log = structlog.get_logger()

_REAP_INTERVAL_S = 2.0


def run_worker(deployment: Deployment, stores: Stores, lock: Path, stop: threading.Event) -> None:
    """Work until ``stop`` is set.

    Leases are looked at only after a lease's time: while this process was away no host could renew one.

    Raises:
        SetupError: another worker is at work on this catalog.
    """
    remover = Remover(deployment.catalog, stores, deployment.deployment_id)
    handlers = {"delete_backup": remover.delete_backup, "sweep_backup": remover.sweep_backup}
    grace_us = int(deployment.settings.sweep_grace_s * 1_000_000)
    with QueueRunner(deployment.catalog, handlers, lock):
        next_sweep_s = time.monotonic()
        stop.wait(deployment.settings.lease_s)
        while not stop.is_set():
            _guarded("reap", lambda: reap(deployment))
            if time.monotonic() >= next_sweep_s:
                _guarded("sweep", lambda: remover.sweep_recent(grace_us))
                next_sweep_s = time.monotonic() + deployment.settings.sweep_interval_s
            stop.wait(_REAP_INTERVAL_S)


def _guarded(step: str, action: Callable[[], object]) -> None:
    """A fault in one round must not end the rounds."""
    try:
        action()
    except SnapholdError as error:
        log.warning("worker.round_failed", step=step, reason=str(error))
