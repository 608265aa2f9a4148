"""The record under any order of requests, reports, restarts and silences (Hypothesis drives it)."""

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import sqlalchemy as sa
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from snaphold.catalog import backups as backup_rows
from snaphold.catalog import instances as instance_rows
from snaphold.catalog import tasks as task_rows
from snaphold.errors import Refused, Superseded, Unavailable
from snaphold.model import (
    BACKUP_MOVES,
    FLAVORS,
    INSTANCE_MOVES,
    RUNNING,
    Backup,
    BackupStatus,
    Instance,
    InstanceStatus,
    VerificationLevel,
)
from snaphold.protocol import Task, TaskKind
from snaphold.service import outcomes
from snaphold.service.backups import cancel_backup, delete_backup, request_backup
from snaphold.service.deployment import Deployment
from snaphold.service.instances import (
    create_instance,
    delete_instance,
    reset_status,
    resize_flavor,
    restart_instance,
    start_instance,
    stop_instance,
)
from snaphold.service.verification import request_verification, retry_verifications
from tests.support.region import ACCOUNT, Region, a_backup, an_instance, open_region

ENDS = {
    InstanceStatus.BUILD: {TaskKind.CREATE, TaskKind.RESTORE},
    InstanceStatus.BACKUP: {TaskKind.BACKUP},
    InstanceStatus.REBOOT: {TaskKind.RESTART, TaskKind.START},
    InstanceStatus.RESIZE: {TaskKind.RESIZE},
    InstanceStatus.SHUTDOWN: {TaskKind.STOP, TaskKind.DELETE},
}
OPEN_VERIFICATIONS = sa.text(
    "SELECT count(*) FROM tasks WHERE backup_id = :id AND kind = 'verify' AND state <> 'ended'"
)
choice = st.integers(min_value=0, max_value=9)


class Record(RuleBasedStateMachine):
    """Requests by an account, and everything that a host can do or fail to do."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="snaphold-record-"))
        self.region: Region = open_region(self.directory)
        self.claimed: list[tuple[Task, str]] = []
        self.ended: list[tuple[Task, str]] = []
        self.backup_was: dict[str, BackupStatus] = {}
        self.instance_was: dict[str, InstanceStatus] = {}

    def teardown(self) -> None:
        """Leave nothing behind."""
        self.region.deployment.catalog.close()
        shutil.rmtree(self.directory)

    @initialize()
    def start(self) -> None:
        """There is one instance to begin with."""
        self.region.active_instance()

    @rule()
    def create(self) -> None:
        """Ask for an instance."""
        self._try(lambda: create_instance(self.region.deployment, ACCOUNT, an_instance()))

    @rule(n=choice)
    def back_up(self, n: int) -> None:
        """Ask for a backup of some instance."""
        for instance in self._some(self._instances(), n):
            self._try(partial(request_backup, self.region.deployment, ACCOUNT, a_backup(instance.id)))

    @rule(n=choice)
    def restore(self, n: int) -> None:
        """Ask for an instance from some backup."""
        for backup in self._some(self._backups(), n):
            request = an_instance(backup_ref=backup.id)
            self._try(partial(create_instance, self.region.deployment, ACCOUNT, request))

    @rule(n=choice)
    def restart(self, n: int) -> None:
        """Restart some instance."""
        for instance in self._some(self._instances(), n):
            self._try(partial(restart_instance, self.region.deployment, ACCOUNT, instance.id))

    @rule(n=choice, act=st.sampled_from([stop_instance, start_instance, reset_status]))
    def act(self, n: int, act: Callable[[Deployment, str, str], None]) -> None:
        """Stop some instance, start it, or free it of its status."""
        for instance in self._some(self._instances(), n):
            self._try(partial(act, self.region.deployment, ACCOUNT, instance.id))

    @rule(n=choice, flavor=st.sampled_from([1, 2]))
    def resize(self, n: int, flavor: int) -> None:
        """Give some instance another flavor."""
        for instance in self._some(self._instances(), n):
            self._try(partial(resize_flavor, self.region.deployment, ACCOUNT, instance.id, FLAVORS[flavor]))

    @rule(n=choice)
    def delete_an_instance(self, n: int) -> None:
        """Delete some instance."""
        for instance in self._some(self._instances(), n):
            self._try(partial(delete_instance, self.region.deployment, ACCOUNT, instance.id))

    @rule(n=choice)
    def cancel(self, n: int) -> None:
        """Cancel some backup."""
        for backup in self._some(self._backups(), n):
            self._try(partial(cancel_backup, self.region.deployment, ACCOUNT, backup.id))

    @rule(n=choice)
    def delete_a_backup(self, n: int) -> None:
        """Delete some backup."""
        for backup in self._some(self._backups(), n):
            self._try(partial(delete_backup, self.region.deployment, ACCOUNT, backup.id))

    @rule(n=choice, level=st.sampled_from(VerificationLevel))
    def verify(self, n: int, level: VerificationLevel) -> None:
        """Ask for a verification of some backup."""
        for backup in self._some(self._backups(), n):
            self._try(partial(request_verification, self.region.deployment, ACCOUNT, backup.id, level))

    @rule()
    def retry_verifications(self) -> None:
        """The worker tries again what ended unknown."""
        retry_verifications(self.region.deployment)

    @rule()
    def claim(self) -> None:
        """The host takes its next task."""
        task = self.region.claim()
        if task is not None:
            self.claimed.append((task, self.region.session))

    @precondition(lambda self: self.claimed)
    @rule(n=choice, ok=st.booleans())
    def report(self, n: int, ok: bool) -> None:  # noqa: FBT001 - Hypothesis hands it over by name
        """Some claimed task ends, well or badly; it may have been abandoned meanwhile."""
        task, session = self.claimed.pop(n % len(self.claimed))
        with contextlib.suppress(Superseded):
            self.region.report(task, ok=ok, session=session)
        self.ended.append((task, session))

    @precondition(lambda self: self.ended)
    @rule(n=choice)
    def report_again(self, n: int) -> None:
        """A report that comes twice is heard and one that comes too late is refused: neither changes anything."""
        task, session = self.ended[n % len(self.ended)]
        before = (self._backups(), self._instances())
        with contextlib.suppress(Superseded):
            self.region.report(task, session=session)
        assert (self._backups(), self._instances()) == before

    @rule()
    def restart_agent(self) -> None:
        """The agent's process is replaced."""
        self.region.hello()

    @rule(seconds=st.sampled_from([1, 20, 40]))
    def pass_time(self, seconds: int) -> None:
        """Time passes, and the worker looks for silent hosts."""
        self.region.clock.advance(seconds)
        outcomes.reap(self.region.deployment)

    @rule()
    def heartbeat(self) -> None:
        """The host says that it is there."""
        self.region.heartbeat()

    @invariant()
    def states_move_along_the_tables(self) -> None:
        """No status ever changes to one that its table does not allow from the last one seen (or via one between)."""
        for backup in self._backups():
            was = self.backup_was.get(backup.id, BackupStatus.NEW)
            assert backup.status is was or _reachable(BACKUP_MOVES, was, backup.status), (was, backup)
            self.backup_was[backup.id] = backup.status
        for instance in self._instances():
            was_instance = self.instance_was.get(instance.id, InstanceStatus.BUILD)
            assert instance.status is was_instance or _reachable(INSTANCE_MOVES, was_instance, instance.status)
            self.instance_was[instance.id] = instance.status

    @invariant()
    def busy_is_exactly_a_running_backup(self) -> None:
        """An instance is BACKUP if and only if one backup of it is NEW or BUILDING."""
        running = [backup.source_id for backup in self._backups() if backup.status in RUNNING]
        assert len(running) == len(set(running))
        assert {i.id for i in self._instances() if i.status is InstanceStatus.BACKUP} == set(running)

    @invariant()
    def nothing_is_stuck(self) -> None:
        """Whatever is on its way has an open task that can end it; a stopped instance is on no way."""
        settled = {InstanceStatus.ACTIVE, InstanceStatus.ERROR}
        with self.region.deployment.catalog.reading() as tx:
            for instance in self._instances():
                task = task_rows.open_of_instance(tx, instance.id)
                stopped = instance.status is InstanceStatus.SHUTDOWN and not instance.deleting
                assert (task is None) == (instance.status in settled) or (task is None and stopped), (instance, task)
                assert task is None or task.kind in ENDS[instance.status]

    @invariant()
    def what_is_being_proven_is_in_hand(self) -> None:
        """A backup that is verified by a restore has exactly one open task; what is in use is not being deleted."""
        for backup in self._backups():
            with self.region.deployment.catalog.reading() as tx:
                tasks = tx.connection.execute(OPEN_VERIFICATIONS, {"id": backup.id}).scalar_one()
            assert tasks == (1 if backup.proving is VerificationLevel.RESTORE else 0), backup
            assert backup.proving is None or not backup.deleting

    @invariant()
    def ends_are_told(self) -> None:
        """FAILED has a reason, COMPLETED a manifest, ERROR a reason."""
        for backup in self._backups():
            assert backup.status is not BackupStatus.FAILED or backup.reason
            assert backup.status is not BackupStatus.COMPLETED or backup.manifest_sha256
        for instance in self._instances():
            assert instance.status is not InstanceStatus.ERROR or instance.reason

    def _backups(self) -> list[Backup]:
        with self.region.deployment.catalog.reading() as tx:
            found = backup_rows.page(tx, ACCOUNT, limit=1000, marker=None)
        assert found is not None
        return found[0]

    def _instances(self) -> list[Instance]:
        with self.region.deployment.catalog.reading() as tx:
            found = instance_rows.page(tx, ACCOUNT, limit=1000, marker=None)
        assert found is not None
        return found[0]

    @staticmethod
    def _some(things: list[Any], n: int) -> list[Any]:
        return [things[n % len(things)]] if things else []

    @staticmethod
    def _try(request: Callable[[], object]) -> None:
        with contextlib.suppress(Refused, Unavailable):
            request()


def _reachable(moves: Mapping[Any, frozenset[Any]], origin: StrEnum, target: StrEnum) -> bool:
    seen: set[StrEnum] = set()
    todo = [origin]
    while todo:
        for step in moves[todo.pop()]:
            if step not in seen:
                seen.add(step)
                todo.append(step)
    return target in seen


TestRecord = Record.TestCase
TestRecord.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)
