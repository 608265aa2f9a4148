"""Databases and users of an instance: its host is called while the caller waits (contract, section 4)."""

import threading
import uuid
from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from snaphold import errors
from snaphold.catalog import host_calls
from snaphold.catalog.host_calls import Answered
from snaphold.errors import Unavailable
from snaphold.model import InstanceStatus, Rate
from snaphold.protocol import (
    DatabaseSpec,
    DatabasesTold,
    HostCallKind,
    Message,
    RootTold,
    UserChange,
    UserSpec,
    UsersTold,
)
from snaphold.reasons import screened
from snaphold.service import limits
from snaphold.service.availability import require_host, unavailable_for_action
from snaphold.service.deployment import Deployment
from snaphold.service.find import find_instance
from snaphold.service.instances import refuse_unknown_charsets

# Allowed while a backup is taken.
_READS = frozenset({HostCallKind.LIST_DATABASES, HostCallKind.LIST_USERS, HostCallKind.SHOW_ROOT})
_Told = TypeVar("_Told", bound=Message)
_LOOK_AGAIN_S = 0.2  # another API process may have received the answer

# Every function below raises NotFound for an unknown instance, Unprocessable for one that is not free for it,
# Unavailable when its host is silent, and what the host itself refused (BadRequest, NotFound).


def list_databases(deployment: Deployment, account: str, instance_id: str) -> list[dict[str, Any]]:
    """The databases that clients made: ``name``, ``character_set``, ``collate``."""
    answer = _ask(deployment, account, instance_id, HostCallKind.LIST_DATABASES, {})
    return [database.model_dump() for database in _understood(DatabasesTold, answer).databases]


def create_databases(deployment: Deployment, account: str, instance_id: str, databases: Sequence[DatabaseSpec]) -> None:
    """Make databases; all or none of them when one exists already, or has an unknown collation (``BadRequest``)."""
    with deployment.catalog.reading() as tx:
        refuse_unknown_charsets(find_instance(tx, account, instance_id).version, databases)
    payload = {"databases": [database.model_dump(mode="json") for database in databases]}
    _ask(deployment, account, instance_id, HostCallKind.CREATE_DATABASES, payload)


def delete_database(deployment: Deployment, account: str, instance_id: str, name: str) -> None:
    """Drop a database and what is in it."""
    _ask(deployment, account, instance_id, HostCallKind.DELETE_DATABASE, {"name": name})


def list_users(deployment: Deployment, account: str, instance_id: str) -> list[dict[str, Any]]:
    """The users that clients made: ``name``, ``host``, ``databases``."""
    answer = _ask(deployment, account, instance_id, HostCallKind.LIST_USERS, {})
    return [user.model_dump() for user in _understood(UsersTold, answer).users]


def create_users(deployment: Deployment, account: str, instance_id: str, users: Sequence[UserSpec]) -> None:
    """Make users, with all rights on their databases."""
    payload = {"users": [user.model_dump(mode="json") for user in users]}
    _ask(deployment, account, instance_id, HostCallKind.CREATE_USERS, payload)


def delete_user(deployment: Deployment, account: str, instance_id: str, name: str, host: str = "%") -> None:
    """Drop a user."""
    _ask(deployment, account, instance_id, HostCallKind.DELETE_USER, {"name": name, "host": host})


def change_users(deployment: Deployment, account: str, instance_id: str, changes: Sequence[UserChange]) -> None:
    """Give users other passwords, names or hosts; all of them or none."""
    payload = {"users": [change.model_dump(mode="json") for change in changes]}
    _ask(deployment, account, instance_id, HostCallKind.CHANGE_USERS, payload)


def grant(
    deployment: Deployment, account: str, instance_id: str, *, name: str, host: str, databases: Sequence[str]
) -> None:
    """Give a user all rights on databases that are there."""
    payload = {"name": name, "host": host, "databases": list(databases)}
    _ask(deployment, account, instance_id, HostCallKind.GRANT, payload)


def revoke(deployment: Deployment, account: str, instance_id: str, *, name: str, host: str, database: str) -> None:
    """Take every right on a database from a user."""
    payload = {"name": name, "host": host, "database": database}
    _ask(deployment, account, instance_id, HostCallKind.REVOKE, payload)


def root_enabled(deployment: Deployment, account: str, instance_id: str) -> bool:
    """Whether clients may log in as root."""
    return _understood(RootTold, _ask(deployment, account, instance_id, HostCallKind.SHOW_ROOT, {})).enabled


def enable_root(deployment: Deployment, account: str, instance_id: str, password_hash: str) -> None:
    """Let clients log in as root, with this password and no other."""
    _ask(deployment, account, instance_id, HostCallKind.ENABLE_ROOT, {"password_hash": password_hash})


def disable_root(deployment: Deployment, account: str, instance_id: str) -> None:
    """End logins as root."""
    _ask(deployment, account, instance_id, HostCallKind.DISABLE_ROOT, {})


def _understood(kind: type[_Told], payload: dict[str, Any]) -> _Told:
    """The parsed answer of a host. Raises ``Unavailable`` if it is malformed, which is the host's fault."""
    try:
        return kind.model_validate(payload)
    except ValidationError as error:
        raise Unavailable("The host gave an answer that cannot be understood.") from error


def _ask(
    deployment: Deployment,
    account: str,
    instance_id: str,
    kind: HostCallKind,
    payload: dict[str, Any],
) -> dict[str, Any]:
    call_id = str(uuid.uuid4())
    with deployment.catalog.writing() as tx:
        instance = find_instance(tx, account, instance_id)
        if not (
            instance.status is InstanceStatus.ACTIVE or (instance.status is InstanceStatus.BACKUP and kind in _READS)
        ):
            raise unavailable_for_action(instance_id, instance.status)
        require_host(tx, deployment, instance)
        if kind not in _READS:
            limits.count(tx, deployment, account, Rate.USER_WRITES)
        timeout_us = int(deployment.settings.question_timeout_s * 1_000_000)
        host_calls.ask(
            tx,
            call_id=call_id,
            host_id=instance.host_id,
            instance_id=instance_id,
            kind=kind,
            payload=payload,
            deadline_us=tx.now_us + timeout_us,
        )
    answered = _wait_for_answer(deployment, instance.host_id, call_id)
    if answered is None:
        raise Unavailable(f"The host of instance {instance_id} does not answer.")
    if not answered.ok:
        raise _refusal(answered)
    return answered.payload


def _wait_for_answer(deployment: Deployment, host_id: str, call_id: str) -> Answered | None:
    event = threading.Event()
    deployment.wakeups.subscribe(call_id, event.set)
    deployment.wakeups.notify(host_id)
    try:
        rounds = max(1, round(deployment.settings.question_timeout_s / _LOOK_AGAIN_S))
        for _ in range(rounds):
            event.wait(_LOOK_AGAIN_S)
            with deployment.catalog.reading() as tx:
                answered = host_calls.read_answer(tx, call_id)
            if answered is not None:
                return answered
        return None
    finally:
        deployment.wakeups.unsubscribe(call_id, event.set)
        with deployment.catalog.writing() as tx:
            host_calls.forget(tx, call_id)


def _refusal(answered: Answered) -> errors.SnapholdError:
    message = screened(answered.message or "The host refused.")
    match answered.error:
        case "BadRequest":
            return errors.BadRequest(message)
        case "NotFound":
            return errors.NotFound(message)
        case "Unprocessable":
            return errors.Unprocessable(message)
        case _:
            return Unavailable(message)
