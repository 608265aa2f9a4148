"""The hosts of a region: added, listed and removed by its operator; each has a token of its own."""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from snaphold.catalog import host_calls, hosts, instances, schedules, tasks
from snaphold.errors import NotFound, Unauthorized, Unprocessable
from snaphold.model import Host, Instance
from snaphold.service.deployment import Deployment
from snaphold.service.outcomes import abandon

_log = structlog.get_logger()

_REMOVED = "Its host was removed from the service."
_TOKEN_BYTES = 32
_NAMED_AT_MOST = 20  # instances that a refusal names


@dataclass(frozen=True, kw_only=True)
class HostListing:
    """A host as its operator sees it. ``online``: heard from within a lease."""

    host: Host
    online: bool
    instances: int


def add_host(deployment: Deployment, name: str) -> str:
    """Make the token of the host of this name, which is shown only now; a known host loses its old token."""
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    with deployment.catalog.writing() as tx:
        hosts.put(tx, name, _sha256(token))
    return token


def authenticate_host(deployment: Deployment, token: str) -> str:
    """The id of the host that has this token. Raises ``Unauthorized``."""
    with deployment.catalog.reading() as tx:
        host_id = hosts.by_token(tx, _sha256(token))
    if host_id is None:
        raise Unauthorized("The host's token is not known.")
    return host_id


def list_hosts(deployment: Deployment) -> list[HostListing]:
    """Every host of the region, by name."""
    with deployment.catalog.reading() as tx:
        load, _ = instances.tenants(tx)
        since_us = tx.now_us - deployment.lease_us
        return [
            HostListing(
                host=host,
                online=host.seen_us is not None and host.seen_us >= since_us,
                instances=load.get(host.id, 0),
            )
            for host in hosts.every(tx)
        ]


def remove_host(deployment: Deployment, name: str, *, force: bool) -> Sequence[Instance]:
    """Remove a host: its token is refused, and it gets no more tasks.

    Its instances, which are returned, are refused without ``force``. With it they are gone from the catalog as if they
    had been deleted: their schedules end, a backup that is being taken of them is FAILED, their other backups stay and
    can be restored on another host. Nothing is asked of the host: database servers that run there go on running.

    Raises:
        NotFound: there is no host of this name.
        Unprocessable: it has instances, and ``force`` was not given.
    """
    with deployment.catalog.writing() as tx:
        host = hosts.by_name(tx, name)
        if host is None:
            raise NotFound(f"there is no host {name} in region {deployment.region}")
        kept = instances.of_host(tx, host.id)
        if kept and not force:
            raise Unprocessable(_refusal(name, kept))
        for attempt in tasks.open_of_host(tx, host.id):
            abandon(tx, deployment, attempt, _REMOVED)
        for instance in kept:
            schedules.delete_of_source(tx, instance.id)
            instances.mark_deleted(tx, instance.id)
        host_calls.forget_of_host(tx, host.id)
        hosts.remove(tx, host.id)
    _log.info("host.removed", host=host.id, name=name, instances=[instance.id for instance in kept])
    return kept


def _refusal(name: str, kept: Sequence[Instance]) -> str:
    named = ", ".join(f"{instance.id} of account {instance.account}" for instance in kept[:_NAMED_AT_MOST])
    more = f" and {len(kept) - _NAMED_AT_MOST} more" if len(kept) > _NAMED_AT_MOST else ""
    return (
        f"host {name} has {len(kept)} instance(s): {named}{more}. Delete them first; --force forgets them, keeps their "
        "backups and leaves their servers running"
    )


def _sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
