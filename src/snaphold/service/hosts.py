"""Hosts: what their agents say, and what becomes of the catalog by it (snaphold.protocol).

A report is one transaction that moves every row that it is about and enqueues what comes next. What a silence means
stands in ``give_up``.
"""

import hashlib
import ipaddress
import secrets
from typing import Any

import structlog

from snaphold.catalog import backups, host_calls, hosts, instances, tasks
from snaphold.catalog import copies as copy_rows
from snaphold.catalog.database import Transaction
from snaphold.errors import Superseded, Unauthorized
from snaphold.facts import completed_values
from snaphold.model import (
    DAY_US,
    Attempt,
    BackupStatus,
    Instance,
    InstanceStatus,
    VerificationLevel,
    VerificationStatus,
    rfc3339,
)
from snaphold.protocol import (
    BackupResult,
    Claim,
    Desired,
    Heartbeat,
    Hello,
    HostCall,
    HostCallAnswer,
    HostCallKind,
    InstanceResult,
    InstanceState,
    Progress,
    Report,
    Task,
    TaskKind,
    VerificationResult,
    Welcome,
    Work,
)
from snaphold.reasons import screened
from snaphold.service import copies
from snaphold.service.deployment import Deployment
from snaphold.steps import Step, reached

log = structlog.get_logger()

_MAY_WAIT = frozenset({TaskKind.RESTART, TaskKind.STOP, TaskKind.START, TaskKind.RESIZE, TaskKind.DELETE})
_MAKES_INSTANCE = frozenset({TaskKind.CREATE, TaskKind.RESTORE})
_MAKES_BACKUP = frozenset({TaskKind.BACKUP, TaskKind.CONSOLIDATE})
_TOKEN_BYTES = 32
_TASKS_KEPT_US = 7 * DAY_US
_LATE_US = 5_000_000  # half of what an agent waits for an answer before it speaks again


def add_host(deployment: Deployment, name: str) -> str:
    """Make a token for the host of this name (a known one loses its old token). The token is never shown again."""
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    with deployment.catalog.writing() as tx:
        hosts.put(tx, name, _sha256(token))
    return token


def authenticate_host(deployment: Deployment, token: str) -> str:
    """The id of the host that this token belongs to. Raises ``Unauthorized``."""
    with deployment.catalog.reading() as tx:
        host_id = hosts.by_token(tx, _sha256(token))
    if host_id is None:
        raise Unauthorized("The host's token is not known.")
    return host_id


def hello(deployment: Deployment, host_id: str, message: Hello) -> Welcome:
    """A new agent process speaks for the host: what an earlier one had claimed is abandoned."""
    with deployment.catalog.writing() as tx:
        for attempt in tasks.of_other_sessions(tx, host_id, message.session):
            give_up(tx, deployment, attempt, "The agent of its host was restarted.")
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
    log.info("host.hello", host=host_id, instances=len(message.instances))
    return Welcome(
        host_id=host_id,
        region=deployment.region,
        lease_s=deployment.settings.lease_s,
        renew_s=deployment.settings.renew_s,
        instances=desired.instances,
    )


def heartbeat(deployment: Deployment, host_id: str, message: Heartbeat) -> Desired:
    """The host is there. Raises ``Superseded`` when another process speaks for it: it must say hello again.

    One that had to wait for the catalog may have been followed by another one, which was faster: what it says of
    positions in logs is no news then, and must not look like a roll-back.
    """
    came_us = deployment.catalog.now_us()
    with deployment.catalog.writing() as tx:
        if not hosts.seen(tx, host_id, message.session, message.taken):
            raise Superseded("Another agent process speaks for this host.")
        return _note_instances(tx, host_id, message.instances, late=tx.now_us - came_us > _LATE_US)


def claim(deployment: Deployment, host_id: str, message: Claim) -> Work:
    """What the host is to do now: stop, answer a question, or begin a task; empty when there is nothing. Never waits.

    Raises:
        Superseded: another process speaks for this host.
    """
    with deployment.catalog.reading() as tx:
        _check_session(tx, host_id, message.session)
        given_up = tasks.given_up(tx, host_id, message.session, message.at_work)
        if given_up:
            return Work(given_up=given_up)
        may_begin = message.accept_tasks and tasks.next_waiting(tx, host_id, message.free_slots) is not None
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
    """The attempt goes on: its lease is renewed. Raises ``Superseded`` when it is no longer the current one.

    One of a task that is not known was not abandoned: the catalog was lost meanwhile. Its report decides.
    """
    with deployment.catalog.writing() as tx:
        if not tasks.is_known(tx, task_id):
            return
        attempt = _current(tx, host_id, task_id, message.session, message.attempt)
        tasks.renew(tx, attempt, tx.now_us + deployment.lease_us)
        if attempt.backup_id is not None and attempt.kind in _MAKES_BACKUP:
            backups.note_progress(tx, attempt.backup_id, **_measured(message, "size_bytes"))
        if attempt.instance_id is not None and attempt.kind == TaskKind.RESTORE:
            instances.note_progress(tx, attempt.instance_id, **_measured(message))


def claimed_backup(
    deployment: Deployment, host_id: str, task_id: str, message: Report
) -> tuple[str, str, BackupResult] | None:
    """What a report calls a whole backup (account, id, result), where it comes from the current attempt at one."""
    if not message.ok or message.backup is None:
        return None
    with deployment.catalog.reading() as tx:
        attempt = tasks.current(tx, host_id, task_id, message.session, message.attempt)
    if attempt is None or attempt.backup_id is None or attempt.kind not in _MAKES_BACKUP:
        return None
    return attempt.account, attempt.backup_id, message.backup


def report(
    deployment: Deployment, host_id: str, task_id: str, message: Report, *, unfounded: str | None = None
) -> None:
    """The attempt has ended. The same report may come again, where its answer was lost on the way: it is no news.

    Nor is it where the catalog was lost, and has been made anew from what the attempt has put into the store.
    ``unfounded``: why what it says is not so, as the caller has seen; then the attempt has failed.

    Raises:
        Superseded: the attempt was abandoned before, and nothing is written; or what it says is not so.
    """
    message = _screened(message)
    with deployment.catalog.writing() as tx:
        if tasks.has_reported(tx, host_id, task_id, message.session, message.attempt):
            return
        if not tasks.is_known(tx, task_id) and _is_recorded(tx, message):
            return
        attempt = _current(tx, host_id, task_id, message.session, message.attempt)
        if message.ok and unfounded is None:
            unfounded = _contradiction(tx, attempt, message)
        tasks.end(tx, attempt, reported=unfounded is None)
        if unfounded is not None:
            _fail(tx, deployment, attempt, unfounded)
        elif message.ok:
            _succeed(tx, attempt, message)
            if attempt.kind == TaskKind.BACKUP and attempt.backup_id is not None:
                copies.begin_planned(tx, deployment, attempt.backup_id)
        else:
            _fail(tx, deployment, attempt, message.reason or "It failed without a reason.")
    reached(Step.CONTROL_REPORTED)
    log.info(
        "task.ended",
        task=task_id,
        kind=attempt.kind,
        attempt=attempt.number,
        instance=attempt.instance_id,
        backup=attempt.backup_id,
        ok=message.ok and unfounded is None,
        reason=message.reason if unfounded is None else unfounded,
    )
    if unfounded is not None:
        raise Superseded(unfounded)


def _screened(message: Report) -> Report:
    """The same report, its reasons fit for tenants: a host may be of an older release, or somebody else's by now."""
    reason = None if message.reason is None else screened(message.reason)
    proof = message.proof
    if proof is not None and proof.reason is not None:
        proof = proof.model_copy(update={"reason": screened(proof.reason)})
    return message.model_copy(update={"reason": reason, "proof": proof})


def answer(deployment: Deployment, host_id: str, call_id: str, message: HostCallAnswer) -> None:
    """The answer to a question, for whoever still waits."""
    answered = host_calls.Answered(ok=message.ok, payload=message.payload, error=message.error, message=message.message)
    with deployment.catalog.writing() as tx:
        host_calls.answer(tx, host_id, call_id, answered)
    deployment.wakeups.notify(call_id)


def reap(deployment: Deployment) -> int:
    """Give up every attempt whose host has been silent for a lease's time; how many that were.

    A hundred in a transaction, so that nobody who writes waits for long.
    """
    count = 0
    while True:
        with deployment.catalog.reading() as tx:
            overdue_us = tx.now_us - deployment.lease_us
            if not tasks.silent(tx, deployment.lease_us) and not host_calls.any_overdue(tx, overdue_us):
                return count
        with deployment.catalog.writing() as tx:
            attempts = tasks.silent(tx, deployment.lease_us)
            for attempt in attempts:
                give_up(tx, deployment, attempt, "Its host has not been heard from for too long.")
            host_calls.forget_overdue(tx, tx.now_us - deployment.lease_us)
        count += len(attempts)


class HostWatch:
    """Says in the log which hosts have fallen silent, and which are back: each once, by whoever watches."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._silent: set[str] = set()

    def look(self) -> None:
        """See which hosts were heard from within a lease's time."""
        with self._deployment.catalog.reading() as tx:
            known = hosts.last_seen(tx)
            since_us = tx.now_us - self._deployment.lease_us
            silent = {host_id for host_id, (_, seen_us) in known.items() if seen_us < since_us}
            load = instances.tenants(tx)[0] if silent - self._silent else {}
        for host_id in sorted(silent - self._silent):
            name, seen_us = known[host_id]
            log.warning("host.silent", host=name, last_heard=rfc3339(seen_us), instances=load.get(host_id, 0))
        for host_id in sorted((self._silent - silent) & known.keys()):
            log.info("host.back", host=known[host_id][0])
        self._silent = silent


def forget_ended_tasks(deployment: Deployment) -> None:
    """Drop tasks that ended a week ago: long after their hosts have stopped to report on them."""
    with deployment.catalog.writing() as tx:
        tasks.forget_ended(tx, tx.now_us - _TASKS_KEPT_US)


def give_up(tx: Transaction, deployment: Deployment, attempt: Attempt, reason: str) -> None:
    """What a silence means, by kind.

    1. A backup is FAILED and its bytes are swept; its instance is free again.
    2. A create or a restore leaves its instance in ERROR.
    3. A restart, stop, start, resize and a delete wait for the host, as a further attempt.
    4. The verification of a backup is unknown; the worker asks for it again.
    """
    log.warning(
        "task.given_up", task=attempt.task_id, kind=attempt.kind, attempt=attempt.number,
        instance=attempt.instance_id, backup=attempt.backup_id, reason=reason,
    )  # fmt: skip
    if attempt.kind in _MAY_WAIT:
        tasks.put_back(tx, attempt)
        return
    abandon(tx, deployment, attempt, reason)


def abandon(tx: Transaction, deployment: Deployment, attempt: Attempt, reason: str) -> None:
    """End a task without its report: whoever works on it is superseded, and what it was about has failed."""
    tasks.end(tx, attempt, reported=False)
    _fail(tx, deployment, attempt, reason)


def _measured(message: Progress, *more: str) -> dict[str, Any]:
    """What an attempt has told of its progress this time."""
    told = message.model_dump(include={"step", "done_bytes", "expected_bytes", "bytes_per_s", *more})
    return {key: value for key, value in told.items() if value is not None}


def _check_session(tx: Transaction, host_id: str, session: str) -> None:
    host = hosts.get(tx, host_id)
    if host is None or host.session != session:
        raise Superseded("Another agent process speaks for this host.")


def _claim_task(tx: Transaction, deployment: Deployment, host_id: str, message: Claim) -> Task | None:
    claimed = tasks.claim(tx, host_id, message.session, tx.now_us + deployment.lease_us, message.free_slots)
    if claimed is None:
        return None
    attempt, payload = claimed
    if attempt.kind in _MAKES_BACKUP and attempt.backup_id is not None:
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


def _current(tx: Transaction, host_id: str, task_id: str, session: str, number: int) -> Attempt:
    attempt = tasks.current(tx, host_id, task_id, session, number)
    if attempt is None:
        raise Superseded(f"Attempt {number} at task {task_id} was given up.")
    return attempt


def _is_recorded(tx: Transaction, message: Report) -> bool:
    """Whether the catalog has the very backup that is reported: then it must not be removed as an superseded one's."""
    if message.backup is None:
        return False
    backup = backups.get(tx, message.backup.object_name.partition(".")[0])
    return (
        backup is not None
        and backup.status is BackupStatus.COMPLETED
        and backup.manifest_sha256 == message.backup.manifest_sha256
    )


def _succeed(tx: Transaction, attempt: Attempt, message: Report) -> None:
    match attempt:
        case Attempt(kind=TaskKind.BACKUP | TaskKind.CONSOLIDATE, backup_id=str(backup_id)) if message.backup:
            _complete_backup(tx, attempt, backup_id, message.backup)
        case Attempt(kind=TaskKind.CREATE | TaskKind.RESTORE, instance_id=str(instance_id)) if message.instance:
            _activate(tx, instance_id, message.instance)
        case Attempt(kind=TaskKind.RESTART | TaskKind.START, instance_id=str(instance_id)):
            instances.move(tx, instance_id, [InstanceStatus.REBOOT], InstanceStatus.ACTIVE, running=True, reason=None)
        case Attempt(kind=TaskKind.RESIZE, instance_id=str(instance_id)):
            flavor_id = attempt.payload["flavor_id"]
            resized = {"flavor_id": flavor_id, "running": True}
            instances.move(tx, instance_id, [InstanceStatus.RESIZE], InstanceStatus.ACTIVE, **resized)
        case Attempt(kind=TaskKind.STOP, instance_id=str(instance_id)):
            instances.note_state(tx, attempt.host_id, instance_id, running=False, used_bytes=None)
        case Attempt(kind=TaskKind.DELETE, instance_id=str(instance_id)):
            instances.mark_deleted(tx, instance_id)
        case Attempt(kind=TaskKind.VERIFY, backup_id=str(backup_id)) if message.proof is not None:
            backups.end_verification(tx, backup_id, message.proof)
        case _:
            raise Superseded(f"The report on task {attempt.task_id} lacks its result.")


def _contradiction(tx: Transaction, attempt: Attempt, message: Report) -> str | None:
    """What in a report is not what was asked for, or cannot be, or None.

    1. A backup's data object carries the backup's own id.
    2. It was taken from the parent that was asked for; from none only where nobody named one.
    3. An instance's address is one of its host's networks, and no other instance's; its port is the host's.
    """
    if message.instance is not None and attempt.kind in _MAKES_INSTANCE and attempt.instance_id is not None:
        return _wrong_address(tx, attempt.host_id, attempt.instance_id, message.instance)
    result, spec = message.backup, attempt.payload.get("backup")
    if result is None or spec is None:
        return None
    if result.object_name.partition(".")[0] != attempt.backup_id:
        return f"The object {result.object_name} is not backup {attempt.backup_id}'s."
    if result.parent_id != spec["parent_id"] and (result.parent_id is not None or spec["parent_named"]):
        return "The backup was not taken from the parent that was asked for."
    return None


def _wrong_address(tx: Transaction, host_id: str, instance_id: str, result: InstanceResult) -> str | None:
    host = hosts.get(tx, host_id)
    if host is None or result.address in instances.addresses_on(tx, host_id, but=instance_id):
        return f"Its host told the address {result.address}, which another instance has."
    told = ipaddress.ip_address(result.address)
    if host.networks and not any(told in ipaddress.ip_network(network) for network in host.networks):
        return f"Its host told the address {result.address}, which is in none of its networks."
    if host.instance_port is not None and result.port != host.instance_port:
        return f"Its host told port {result.port}, not {host.instance_port}."
    return None


def _complete_backup(tx: Transaction, attempt: Attempt, backup_id: str, result: BackupResult) -> None:
    completed = backups.move(
        tx,
        backup_id,
        [BackupStatus.BUILDING],
        BackupStatus.COMPLETED,
        done_bytes=None,
        expected_bytes=None,
        bytes_per_s=None,
        step=None,
        **completed_values(result),
    )
    if not completed:
        raise Superseded(f"Backup {backup_id} is not BUILDING any more.")
    if attempt.instance_id is not None:
        instances.move(tx, attempt.instance_id, [InstanceStatus.BACKUP], InstanceStatus.ACTIVE)
        instance = instances.get(tx, attempt.instance_id)
        if instance is not None and result.incarnation not in {instance.incarnation, instance.ended_incarnation}:
            instances.note_incarnation(tx, instance, result.incarnation, 0)  # the next heartbeat says how far


def _activate(tx: Transaction, instance_id: str, result: InstanceResult) -> None:
    """The server answers. Where its host found the address taken, it has another one, and with it another name."""
    instance = instances.get(tx, instance_id)
    moved: dict[str, Any] = {}
    if instance is not None and instance.reserved_address not in {None, result.address}:
        log.warning(
            "instance.address_taken", instance=instance_id, address=instance.reserved_address, now=result.address
        )
        moved = {"reserved_address": result.address}
        if instance.hostname == instance.reserved_address:
            moved["hostname"] = result.address
    instances.move(
        tx,
        instance_id,
        [InstanceStatus.BUILD],
        InstanceStatus.ACTIVE,
        address=result.address,
        port=result.port,
        used_bytes=result.used_bytes,
        running=True,
        **moved,
        **instances.NO_PROGRESS,
    )


def _fail(tx: Transaction, deployment: Deployment, attempt: Attempt, reason: str) -> None:
    match attempt:
        case Attempt(kind=TaskKind.BACKUP | TaskKind.CONSOLIDATE, backup_id=str(backup_id)):
            origins = [BackupStatus.NEW, BackupStatus.BUILDING]
            backups.move(tx, backup_id, origins, BackupStatus.FAILED, reason=reason, step=None)
            copy_rows.fail_all(tx, backup_id, "The backup itself has failed.")
            if attempt.instance_id is not None:
                instances.move(tx, attempt.instance_id, [InstanceStatus.BACKUP], InstanceStatus.ACTIVE)
            deployment.queue.enqueue(tx, "sweep_backup", backup_id)
        case Attempt(kind=TaskKind.CREATE | TaskKind.RESTORE, instance_id=str(instance_id)):
            origins_of_error = [InstanceStatus.BUILD]
            instances.move(
                tx, instance_id, origins_of_error, InstanceStatus.ERROR, reason=reason, **instances.NO_PROGRESS
            )
        case Attempt(kind=TaskKind.VERIFY, backup_id=str(backup_id)):
            backups.end_verification(
                tx,
                backup_id,
                VerificationResult(
                    status=VerificationStatus.UNKNOWN,
                    level=VerificationLevel.RESTORE,
                    at=rfc3339(tx.now_us),
                    seconds=(tx.now_us - attempt.created_us) / 1e6,
                    reason=reason,
                ),
            )
        case Attempt(instance_id=str(instance_id)):
            origins_of_error = [InstanceStatus.REBOOT, InstanceStatus.RESIZE, InstanceStatus.SHUTDOWN]
            instances.move(tx, instance_id, origins_of_error, InstanceStatus.ERROR, reason=reason, deleting=False)


def _note_instances(tx: Transaction, host_id: str, states: list[InstanceState], *, late: bool = False) -> Desired:
    """Keep what a host tells of its instances, and what is wanted of them. ``late``: newer news may have come before.

    A few statements, however many instances there are: everybody who writes waits for this transaction.
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
        if seen != before:
            observed[instance_id] = seen
        wanted = _wanted(instance, open_tasks.get(instance_id))
        if wanted is not None:
            desired[instance_id] = wanted
        if state.running and instance.status is InstanceStatus.ERROR and wanted == "running":
            instances.move(tx, instance_id, [InstanceStatus.ERROR], InstanceStatus.ACTIVE, reason=None)
    instances.note_all(tx, observed)
    return Desired.model_validate({"instances": desired})


def _observed(instance: Instance, state: InstanceState, *, late: bool) -> dict[str, Any]:
    """The columns of what a host has measured; a measure that it could not take leaves the last one."""
    values: dict[str, Any] = {"running": state.running}
    if state.used_bytes is not None:
        values["used_bytes"] = state.used_bytes
    if state.incarnation is not None and state.max_lsn is not None and not late:
        sound, life = instances.incarnation_values(instance, state.incarnation, state.max_lsn)
        if not sound and instance.incarnation is not None:
            log.warning("instance.rolled_back", instance=state.id, max_lsn=state.max_lsn, was=instance.max_lsn)
        values |= life
    return values


def _wanted(instance: Instance, task_kind: str | None) -> str | None:
    """What the catalog wants of a server, or None while its open task (of ``task_kind``) decides.

    1. Of a deleted instance, and of one that was abandoned before it ever was ACTIVE, nothing is kept.
    2. One that has been ACTIVE has data, which only its owner may throw away: its host goes on trying to run it, and
       when it runs it is ACTIVE again.
    3. While a task is open (create, restart, delete), the task decides; but a backup's server runs.
    4. One that was stopped stays so.
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


def _sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
