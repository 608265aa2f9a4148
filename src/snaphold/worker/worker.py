"""The worker of one region: runs the queue, abandons the tasks of silent hosts, and sweeps their objects.

Steps that use the stores run in a thread of their own: a store that does not answer delays neither the tasks of silent
hosts nor the schedules.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from snaphold.errors import SnapholdError, in_full
from snaphold.queue import QueueRunner
from snaphold.service.deployment import Deployment
from snaphold.service.outcomes import forget_ended_tasks, reap
from snaphold.service.sessions import HostWatch
from snaphold.store.base import Containers, Stores
from snaphold.worker.copying import Copier
from snaphold.worker.deletion import Remover
from snaphold.worker.orphans import OrphanScanner
from snaphold.worker.schedules import Scheduler
from snaphold.worker.state_backup import Saver
from snaphold.worker.verification import Verifier

_log = structlog.get_logger()

_ROUND_S = 2.0
_LATE_S = 5.0  # a wait that takes this much longer: the process, or the machine, was stopped meanwhile
_JUMP_S = 1.0  # how far the clock may run ahead of the time that has passed
_LAST_STEP_S = 1.0  # for a step that uses a store to end by itself when the process is stopped


@dataclass(frozen=True)
class Moment:
    """The time by the clock of the catalog, and by a clock that never jumps."""

    wall_s: float
    passed_s: float

    @classmethod
    def now(cls) -> "Moment":
        """This moment. The second clock goes on while the machine sleeps."""
        return cls(time.time(), time.clock_gettime(time.CLOCK_BOOTTIME))


def hosts_could_renew(before: Moment, after: Moment, waited_s: float) -> bool:
    """Whether hosts could renew their leases between two moments, so that an expired lease means a silent host.

    1. They could not while this process was stopped.
    2. They could not if the clock was put forward: the lease expired before its time had passed.
    """
    passed_s = after.passed_s - before.passed_s
    if passed_s > waited_s + _LATE_S:
        return False
    return (after.wall_s - before.wall_s) - passed_s <= _JUMP_S


def run_worker(
    deployment: Deployment,
    stores: Stores,
    saver: Saver,
    lock: Path,
    stop: threading.Event,
    *,
    peers: Mapping[str, Containers],
) -> None:
    """Work until ``stop`` is set. ``peers``: the stores of the regions that copies can go to.

    Leases are judged only when every host had the time to renew its own: from the time of one lease after the start, or
    after this process was stopped or the clock jumped.

    Raises:
        SetupError: another worker is at work on this catalog.
    """
    remover = Remover(deployment.catalog, stores, deployment.deployment_id)
    scheduler = Scheduler(deployment)
    verifier = Verifier(deployment, stores, stop, peers)
    watch = HostWatch(deployment)
    copier = Copier(deployment, stores, peers, stop)
    handlers = {
        "copy_backup": copier.copy,
        "delete_backup": remover.delete_backup,
        "sweep_backup": remover.sweep_backup,
        "sweep_arrival": remover.sweep_incoming_copy,
        "prove_objects": verifier.verify,
    }
    grace_us = int(deployment.settings.sweep_grace_s * 1_000_000)
    scanner = OrphanScanner(deployment.catalog, stores, deployment.deployment_id, grace_us)
    first_s = deployment.settings.lease_s
    upkeep = {
        "deletions": remover.retry_deletions,
        "state": saver.save_when_due,
        "sweep": lambda: remover.sweep_recent(grace_us),
        "arrivals": lambda: remover.sweep_incoming_copies(grace_us),
        "proofs": verifier.retry,
        "ended tasks": lambda: forget_ended_tasks(deployment),
        "strangers": scanner.tell_changes,
    }
    keeping_up = threading.Thread(
        target=in_rounds, args=(upkeep, first_s, deployment.settings.sweep_interval_s, stop), name="upkeep", daemon=True
    )
    with QueueRunner(deployment.catalog, handlers, lock):
        _guarded("resume proofs", verifier.resume)
        _guarded("resume copies", copier.resume)
        keeping_up.start()
        judged_from_s = Moment.now().passed_s + first_s
        while True:
            _guarded("schedules", scheduler.run)
            _guarded("copies", copier.retry)
            before = Moment.now()
            if stop.wait(_ROUND_S):
                break
            after = Moment.now()
            if not hosts_could_renew(before, after, _ROUND_S):
                judged_from_s = after.passed_s + deployment.settings.lease_s
                _log.warning("worker.was_stopped", again_in_s=deployment.settings.lease_s)
            if after.passed_s >= judged_from_s:
                _guarded("reap", lambda: reap(deployment))
                _guarded("hosts", watch.look)
        keeping_up.join(_LAST_STEP_S)


def in_rounds(steps: Mapping[str, Callable[[], object]], first_s: float, every_s: float, stop: threading.Event) -> None:
    """Run the steps in their order, first after ``first_s``, then every ``every_s`` after the last, until ``stop``."""
    wait_s = first_s
    while not stop.wait(wait_s):
        for step, action in steps.items():
            if not stop.is_set():
                _guarded(step, action)
        wait_s = every_s


def _guarded(step: str, action: Callable[[], object]) -> None:
    """Run a step; an error is logged and ends nothing."""
    try:
        action()
    except SnapholdError as error:
        _log.warning("worker.step_failed", step=step, reason=in_full(error))
    except Exception:  # noqa: BLE001 - this loop must not die: silent hosts would go unnoticed
        _log.exception("worker.step_crashed", step=step)
