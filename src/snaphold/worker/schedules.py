"""Schedules: due runs begin as soon as they can, and fulls beyond the retention are deleted."""

from collections.abc import Sequence

import structlog

from snaphold.catalog import backups, hosts, schedules
from snaphold.errors import Refused, Unavailable, Unprocessable
from snaphold.model import DueRun, WaitingFull, next_run_us, what_run_waits_for
from snaphold.service.deployment import Deployment
from snaphold.service.schedules import expire_fulls, retention, run_schedule

_log = structlog.get_logger()


class Scheduler:
    """Runs schedules in rounds, in one thread. Several may work on one catalog: a run happens once.

    A run that cannot begin stays due, is tried again in every round, and is told of once. However many were missed,
    by a stop of the service or by waiting, one makes up for them.
    """

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._told_waiting: set[str] = set()  # ids of fulls
        self._told: set[tuple[str, int]] = set()  # (schedule, its next run) of those that wait

    def run(self) -> None:
        """Begin the runs that are due, and delete the fulls that have expired."""
        self._find_lost_runs()
        self._run_due()
        self._expire()

    def _find_lost_runs(self) -> None:
        with self._deployment.catalog.reading() as tx:
            lost = schedules.far_away(tx)
        for schedule in lost:
            with self._deployment.catalog.writing() as tx:
                schedules.advance(tx, schedule, next_run_us(tx.now_us, schedule.hour, schedule.minute))
            _log.warning("schedule.clock_put_back", schedule=schedule.id)

    def _run_due(self) -> None:
        with self._deployment.catalog.reading() as tx:
            due = schedules.due(tx)
            running = {
                account: backups.running_of_account(tx, account) for account in {run.schedule.account for run in due}
            }
            hosts_since_us = tx.now_us - self._deployment.lease_us
        limit = self._deployment.settings.max_running_backups_per_account
        self._told &= {(run.schedule.id, run.schedule.next_run_us) for run in due}
        for run in due:
            account = run.schedule.account
            reason = what_run_waits_for(run, running=running[account], limit=limit, hosts_since_us=hosts_since_us)
            if reason is None:
                reason = self._begin(run)
                running[account] += reason is None
            if reason is not None:
                self._tell(run, reason)

    def _begin(self, run: DueRun) -> str | None:
        try:
            run_schedule(self._deployment, run.schedule)
        except (Refused, Unavailable) as refusal:
            return str(refusal)
        return None

    def _tell(self, run: DueRun, reason: str) -> None:
        key = (run.schedule.id, run.schedule.next_run_us)
        if key not in self._told:
            self._told.add(key)
            _log.info("schedule.waits", schedule=run.schedule.id, source=run.schedule.source_id, reason=reason)

    def _tell_waiting(self, waiting: Sequence[tuple[str, WaitingFull]]) -> None:
        """Log once for each full that must wait for backups of people that depend on it."""
        for schedule_id, full in waiting:
            if full.backup_id not in self._told_waiting:
                _log.info(
                    "schedule.retention_waits", schedule=schedule_id, backup=full.backup_id, needed_by=full.needed_by
                )
        self._told_waiting = {full.backup_id for _, full in waiting}

    def _expire(self) -> None:
        """Delete expired fulls; none after a rebuild, until an operator permits it (snaphold.worker.rebuild)."""
        with self._deployment.catalog.reading() as tx:
            held = hosts.sweep_held_since(tx) is not None
            excessive = [
                (schedule, retention(tx, schedule)) for schedule in ([] if held else schedules.with_too_many_fulls(tx))
            ]
        self._tell_waiting([(schedule.id, full) for schedule, found in excessive for full in found.waiting])
        for schedule, found in excessive:
            if not found.expired:
                continue
            try:
                expire_fulls(self._deployment, schedule)
            except Unprocessable as refusal:
                _log.debug("schedule.expiry_waits", schedule=schedule.id, reason=str(refusal))
