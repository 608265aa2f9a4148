"""Sessions of hosts: an agent says hello, sends heartbeats, claims tasks and answers calls (snaphold.protocol)."""

from typing import Any, Final

import structlog

from snaphold.catalog import backups, host_calls, hosts, instances, tasks
from snaphold.catalog.database import Transaction
from snaphold.errors import Superseded
from snaphold.model import BackupStatus, Instance, InstanceStatus, rfc3339
from snaphold.protocol import (
    Claim,
    Desired,
    Heartbeat,
    Hello,
    HostCall,
    HostCallAnswer,
    HostCallKind,
    InstanceState,
    Progress,
    Task,
    TaskKind,
    Welcome,
    Work,
)
from snaphold.reasons import screened
from snaphold.service.deployment import Deployment
from snaphold.service.outcomes import current_attempt, handle_silence
from snaphold.service.placement import permitted_networks
from snaphold.steps import Step, reached
from snaphold.task_kinds import MAKING_BACKUPS

_log = structlog.get_logger()

_LATE_US: Final = 5_000_000  # half of the time that an agent waits for an answer before it sends the next heartbeat


def hello(deployment: Deployment, host_id: str, message: Hello) -> Welcome:
    """Begin the session of a new agent process. The tasks that an earlier process had claimed are abandoned."""
    with deployment.catalog.writing() as tx:
        for attempt in tasks.of_other_sessions(tx, host_id, message.session):
            handle_silence(tx, deployment, attempt, "The agent of its host was restarted.")
        hosts.begin_session(
            tx,
            host_id,
            message.session,
            datastores=[entry.model_dump(mode="json") for entry in message.datastores],
            shared_system_user=message.shared_system_user,
            accepts_shared=message.accepts_shared,
            memory_mb=message.memory_mb,
            networks=message.networks,
            instance_port=message.instance_port,
            taken=message.taken,
        )
        desired = _note_instances(tx, host_id, message.instances)
    refused = set(message.networks) - set(permitted_networks(deployment.settings, message.networks))
    if refused:
        _log.warning("host.networks_refused", host=host_id, networks=sorted(refused))
    _log.info("host.hello", host=host_id, instances=len(message.instances))
    return Welcome(
        host_id=host_id,
        region=deployment.region,
        lease_s=deployment.settings.lease_s,
        renew_s=deployment.settings.renew_s,
        instances=desired.instances,
    )


def heartbeat(deployment: Deployment, host_id: str, message: Heartbeat) -> Desired:
    """Record a sign of life. Raises ``Superseded`` if another process has begun a session, or the agent must say hello.

    A heartbeat that waited for the catalog may be older than the last one recorded: its log positions must not look
    like a rollback then.
    """
    came_us = deployment.catalog.now_us()
    with deployment.catalog.writing() as tx:
        if not hosts.seen(tx, host_id, message.session, message.taken):
            raise Superseded("Another agent process speaks for this host.")
        return _note_instances(tx, host_id, message.instances, late=tx.now_us - came_us > _LATE_US)


def claim(deployment: Deployment, host_id: str, message: Claim) -> Work:
    """The next work of a host: attempts to stop, a call to answer, or a task to begin; empty if there is none.

    Raises:
        Superseded: another process has begun a session of this host.
    """
    with deployment.catalog.reading() as tx:
        _check_session(tx, host_id, message.session)
        given_up = tasks.given_up(tx, host_id, message.session, message.at_work)
        if given_up:
            return Work(given_up=given_up)
        may_begin = message.accept_tasks and _has_task(tx, host_id, message.free_slots)
        if not may_begin and not host_calls.has_asked(tx, host_id):
            return Work()
    with deployment.catalog.writing() as tx:
        _check_session(tx, host_id, message.session)
        asked = host_calls.take(tx, host_id)
        if asked is not None:
            question = HostCall(
                id=asked.id,
                kind=HostCallKind(asked.kind),
                instance_id=asked.instance_id,
                deadline_s=(asked.deadline_us - tx.now_us) / 1e6,
                payload=asked.payload,
            )
            return Work(question=question)
        task = _claim_task(tx, deployment, host_id, message) if message.accept_tasks else None
    if task is not None:
        reached(Step.CONTROL_CLAIMED)
    return Work(task=task)


def progress(deployment: Deployment, host_id: str, task_id: str, message: Progress) -> None:
    """Record the progress of an attempt and renew its lease. Raises ``Superseded`` if it is no longer the current one.

    An unknown task was not abandoned: the catalog was lost meanwhile, and the report will be checked.
    """
    with deployment.catalog.writing() as tx:
        if not tasks.is_known(tx, task_id):
            return
        attempt = current_attempt(tx, host_id, task_id, message.session, message.attempt)
        tasks.renew(tx, attempt, tx.now_us + deployment.lease_us)
        if attempt.backup_id is not None and attempt.kind in MAKING_BACKUPS:
            backups.note_progress(tx, attempt.backup_id, **_measured(message, "size_bytes"))
        if attempt.instance_id is not None and attempt.kind == TaskKind.RESTORE:
            instances.note_progress(tx, attempt.instance_id, **_measured(message))


def answer(deployment: Deployment, host_id: str, call_id: str, message: HostCallAnswer) -> None:
    """Keep the answer to a host call, and wake the request that waits for it."""
    answered = host_calls.Answered(ok=message.ok, payload=message.payload, error=message.error, message=message.message)
    with deployment.catalog.writing() as tx:
        host_calls.answer(tx, host_id, call_id, answered)
    deployment.wakeups.notify(call_id)


class HostWatch:
    """Logs once when a host falls silent, and once when it is back."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._silent: set[str] = set()

    def look(self) -> None:
        """Compare the hosts that were heard from within a lease with those of the last look."""
        with self._deployment.catalog.reading() as tx:
            known = hosts.last_seen(tx)
            since_us = tx.now_us - self._deployment.lease_us
            silent = {host_id for host_id, (_, seen_us) in known.items() if seen_us < since_us}
            load = instances.tenants(tx)[0] if silent - self._silent else {}
        for host_id in sorted(silent - self._silent):
            name, seen_us = known[host_id]
            _log.warning("host.silent", host=name, last_heard=rfc3339(seen_us), instances=load.get(host_id, 0))
        for host_id in sorted((self._silent - silent) & known.keys()):
            _log.info("host.back", host=known[host_id][0])
        self._silent = silent


def _measured(message: Progress, *more: str) -> dict[str, Any]:
    """The progress in a message, as columns; a missing value leaves the last one."""
    told = message.model_dump(include={"step", "done_bytes", "expected_bytes", "bytes_per_s", *more})
    return {key: value for key, value in told.items() if value is not None}


def _check_session(tx: Transaction, host_id: str, session: str) -> None:
    host = hosts.get(tx, host_id)
    if host is None or host.session != session:
        raise Superseded("Another agent process speaks for this host.")


def _has_task(tx: Transaction, host_id: str, free_slots: int | None) -> bool:
    """Whether a task may begin now, so that a poll does not take the write lock in vain."""
    if free_slots != 1:
        return tasks.any_waiting(tx, host_id)
    return tasks.next_waiting(tx, host_id, free_slots) is not None


def _claim_task(tx: Transaction, deployment: Deployment, host_id: str, message: Claim) -> Task | None:
    claimed = tasks.claim(tx, host_id, message.session, tx.now_us + deployment.lease_us, message.free_slots)
    if claimed is None:
        return None
    attempt, payload = claimed
    if attempt.kind in MAKING_BACKUPS and attempt.backup_id is not None:
        backups.move(tx, attempt.backup_id, [BackupStatus.NEW], BackupStatus.BUILDING)
    return Task.model_validate(
        {
            "id": attempt.task_id,
            "kind": attempt.kind,
            "attempt": attempt.number,
            "instance_id": attempt.instance_id,
            "lease_s": deployment.settings.lease_s,
            **payload,
        }
    )


def _note_instances(tx: Transaction, host_id: str, states: list[InstanceState], *, late: bool = False) -> Desired:
    """Record what a host reports of its instances; their desired states. ``late``: the report may be outdated.

    It takes a few statements, however many instances there are, because all other writers wait for it.
    """
    told = {state.id: state for state in states}
    known = instances.told_by_host(tx, host_id, list(told))
    open_tasks = tasks.open_kinds(tx, list(known))
    observed: dict[str, dict[str, Any]] = {}
    desired = {}
    for instance_id, instance in known.items():
        state = told[instance_id]
        before = {name: getattr(instance, name) for name in instances.OBSERVED}
        seen = before | _observed(instance, state, late=late)
        wanted = _wanted(instance, open_tasks.get(instance_id))
        if wanted is not None:
            desired[instance_id] = wanted
        if state.running and instance.status is InstanceStatus.ERROR and wanted == "running":
            instances.move(tx, instance_id, [InstanceStatus.ERROR], InstanceStatus.ACTIVE)
            seen["reason"] = None
        if seen != before:
            observed[instance_id] = seen
    instances.note_all(tx, observed)
    return Desired.model_validate({"instances": desired})


def _observed(instance: Instance, state: InstanceState, *, late: bool) -> dict[str, Any]:
    """The columns that a host has reported; a value that it could not measure leaves the last one."""
    values: dict[str, Any] = {"running": state.running}
    if instance.status in {InstanceStatus.ACTIVE, InstanceStatus.BACKUP}:
        fault = state.fault or "Its database server does not run."
        values["reason"] = None if state.running else screened(fault)
    if state.used_bytes is not None:
        values["used_bytes"] = state.used_bytes
    if state.incarnation is not None and state.max_lsn is not None and not late:
        sound, life = instances.incarnation_values(instance, state.incarnation, state.max_lsn)
        if not sound and instance.incarnation is not None:
            _log.warning("instance.rolled_back", instance=state.id, max_lsn=state.max_lsn, was=instance.max_lsn)
        values |= life
    return values


def _wanted(instance: Instance, task_kind: str | None) -> str | None:
    """The desired state of a server; None: its open task, of ``task_kind``, decides.

    1. A deleted instance, and one that failed before it was ever ACTIVE, is absent.
    2. One that has been ACTIVE has data, which only its owner may delete: its host tries to run it, and once it runs it
       is ACTIVE again.
    3. While a task is open (create, restart, delete), the task decides; during a backup the server runs.
    4. A stopped instance stays stopped.
    """
    if instance.deleted_us is not None:
        return "absent"
    if instance.status is InstanceStatus.ERROR:
        return "absent" if instance.address is None else "running"
    if instance.status is InstanceStatus.BUILD:
        return None
    if instance.status is InstanceStatus.SHUTDOWN:
        return "stopped" if task_kind is None else None
    return "running" if task_kind is None or task_kind == TaskKind.BACKUP else None
