"""Placement of new instances: datastore, host and address, by what the hosts report of themselves."""

import hashlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from snaphold.catalog import instances
from snaphold.catalog.database import Transaction, relies_on_single_writer
from snaphold.config import Settings
from snaphold.errors import BadRequest, NotFound, OverLimit, Unavailable
from snaphold.model import Backup, Flavor, Host, addresses_in, datastore_id, rank_hosts, version_id
from snaphold.protocol import Datastore
from snaphold.service.requests import InstanceRequest

_log = structlog.get_logger()

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_PRIVATE_NETWORKS: Final = (  # RFC 1918, RFC 6598, RFC 5737, loopback; RFC 4193, RFC 3849
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "192.0.2.0/24",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "127.0.0.0/8",
    "::1/128",
    "fc00::/7",
    "2001:db8::/32",
)


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A version of a datastore that hosts can run. ``is_default``: for requests that name no version."""

    datastore: Datastore
    is_default: bool


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where clients reach an instance."""

    address: str
    port: int
    hostname: str


def offers_of(there: Sequence[Host]) -> list[Offer]:
    """The datastores that these hosts can run: each version once, the newest of a type first.

    1. The default version of a type is the one that the most hosts run; of several, the one of the host that was
       added first; of several of that host, the newest. So a single host, whatever it claims, moves no default.
    2. A version's full version is chosen by the same rule.
    """
    claims: dict[tuple[str, str], list[tuple[Host, Datastore]]] = {}
    for host in there:
        for entry in (Datastore.model_validate(claim) for claim in host.datastores):
            claims.setdefault((entry.type, entry.version), []).append((host, entry))
    defaults: dict[str, tuple[str, str]] = {}
    for key, claimed in claims.items():
        best = defaults.get(key[0])
        if best is None or _support(claimed) > _support(claims[best]):
            defaults[key[0]] = key
    found = [
        Offer(datastore=_most_common(claimed), is_default=defaults[key[0]] == key) for key, claimed in claims.items()
    ]
    by_version = sorted(found, key=lambda offer: _number(offer.datastore.version), reverse=True)
    return sorted(by_version, key=lambda offer: offer.datastore.type)


def choose_datastore(there: Sequence[Host], request: InstanceRequest, backup: Backup | None) -> Datastore:
    """The datastore of a new instance: as requested, else that of its backup, else the default.

    Raises:
        BadRequest: it names another datastore than its backup's.
        NotFound: no host that answers runs it.
        Unavailable: no host answers.
    """
    offered = offers_of(there)
    wanted = request.datastore.lower() if request.datastore is not None else None
    if backup is not None:
        if wanted is not None and wanted not in {backup.datastore, datastore_id(backup.datastore)}:
            raise BadRequest(
                f"The backup is of datastore {backup.datastore} and cannot be restored to {request.datastore}."
            )
        wanted = backup.datastore
    if not offered:
        raise Unavailable("No database host is there.")
    fitting = [
        offer
        for offer in offered
        if wanted is None or wanted in {offer.datastore.type, datastore_id(offer.datastore.type)}
    ]
    if not fitting:
        raise NotFound.of("Datastore", wanted)
    version = request.version
    if backup is not None and version is None:
        version = backup.version
    if version is None:
        return next(offer.datastore for offer in fitting if offer.is_default)
    for entry in (offer.datastore for offer in fitting):
        if version in {entry.version, entry.full_version, version_id(entry.type, entry.version)}:
            if backup is not None and entry.version != backup.version:
                break
            return entry
    raise NotFound.of("Datastore version", version)


def choose_host_of(tx: Transaction, there: Sequence[Host], datastore: str, version: str, account: str) -> Host:
    """The best of these hosts for a server of this account.

    Raises:
        Unavailable: none of them runs this version, or may take an instance of this account.
    """
    return _chosen(tx, _fitting_hosts(tx, there, datastore, version, account)[0], account)


def check_memory(host: Host, flavor: Flavor) -> None:
    """Raises ``OverLimit`` when the flavor's memory is more than the host has."""
    _with_memory([host], flavor)


@relies_on_single_writer
def place_instance(
    tx: Transaction,
    settings: Settings,
    there: Sequence[Host],
    datastore: Datastore,
    account: str,
    *,
    flavor: Flavor,
    instance_id: str,
) -> tuple[Host, Place]:
    """The host of a new instance, one of ``there``, and where clients will reach the instance.

    A host without a free address is passed over, so that one such host never stops the others from taking instances.
    Should somebody take the address before the server starts, the host takes another one and reports it.

    Raises:
        OverLimit: no host that runs this version has the memory of the flavor.
        Unavailable: no host runs this version, or may take an instance of this account, or has a free address.
    """
    for host in _fitting_hosts(tx, there, datastore.type, datastore.version, account, flavor=flavor):
        address = free_address(tx, settings, host, instance_id)
        if address is not None:
            port, name = host.instance_port or settings.instance_port, hostname_of(settings, instance_id, address)
            return _chosen(tx, host, account), Place(address=address, port=port, hostname=name)
    raise Unavailable("The database hosts have no free address for another instance.")


def free_address(tx: Transaction, settings: Settings, host: Host, instance_id: str) -> str | None:
    """An address of the host's networks that is free, as far as hosts have reported; None: there is none.

    The host has told its networks, and which of their addresses are in use; if it has told none, the settings of this
    process apply. A loopback address belongs to its host alone; any other one to a single instance of the region.
    """
    networks = permitted_networks(settings, host.networks or settings.instance_networks)
    taken = set(host.taken) | instances.addresses_on(tx, host.id)
    if not all(ipaddress.ip_network(network).is_loopback for network in networks):
        taken |= {address for address in instances.addresses(tx) if not is_loopback(address)}
    return next((address for address in addresses_in(networks, instance_id) if address not in taken), None)


def permitted_networks(settings: Settings, networks: Sequence[str]) -> list[str]:
    """Those of the networks that hosts may offer addresses of.

    They are private ones, and those within ``instance_networks`` of this process: whatever a host reports, no client is
    sent to a public address that the operator has not named.
    """
    permitted = _permitted(settings)
    return [network for network in networks if _is_within(ipaddress.ip_network(network), permitted)]


def is_permitted_address(settings: Settings, networks: Sequence[str], address: str) -> bool:
    """Whether a host that offers these networks (none: it is an older release) may give an instance this address."""
    offered = [ipaddress.ip_network(network) for network in permitted_networks(settings, networks)]
    return _is_within(ipaddress.ip_network(address), offered if networks else _permitted(settings))


def is_loopback(address: str) -> bool:
    """Whether it is a loopback address, which each machine has for itself."""
    return ipaddress.ip_address(address).is_loopback


def hostname_of(settings: Settings, instance_id: str, address: str) -> str:
    """The name that clients are shown: in the operator's domain if there is one, else the address itself."""
    if settings.instance_domain is None:
        return address
    return f"{hashlib.sha1(instance_id.encode(), usedforsecurity=False).hexdigest()}.{settings.instance_domain}"


def _permitted(settings: Settings) -> list[_Network]:
    return [ipaddress.ip_network(network) for network in (*_PRIVATE_NETWORKS, *settings.instance_networks)]


def _is_within(inner: _Network, outer: Sequence[_Network]) -> bool:
    """Whether the network is a part of one of the others."""
    start, end = inner[0], inner[-1]
    return any(network.version == inner.version and start in network and end in network for network in outer)


def _fitting_hosts(
    tx: Transaction,
    there: Sequence[Host],
    datastore: str,
    version: str,
    account: str,
    *,
    flavor: Flavor | None = None,
) -> list[Host]:
    """The hosts that may run a server of this account, the best first; there is at least one.

    Raises:
        OverLimit: none that runs this version has the memory of the flavor.
        Unavailable: none of them runs this version, or may take an instance of this account.
    """
    able = [
        host
        for host in there
        if any((entry["type"], entry["version"]) == (datastore, version) for entry in host.datastores)
    ]
    if flavor is not None and able:
        able = _with_memory(able, flavor)
    load, accounts = instances.tenants(tx)
    fitting = rank_hosts(able, load, accounts, account)
    if not fitting:
        raise Unavailable("No database host that is there may take an instance of this account.")
    return fitting


def _chosen(tx: Transaction, host: Host, account: str) -> Host:
    """The same host; the log says so when accounts share a system user on it."""
    if host.shared_system_user and instances.tenants(tx)[1].get(host.id, set()) - {account}:
        _log.warning("host.shared_system_user", host=host.name, account=account)
    return host


def _with_memory(hosts: Sequence[Host], flavor: Flavor) -> list[Host]:
    """The hosts with at least the memory of the flavor; a host that has not reported its memory has enough.

    The memory of other instances is not subtracted: servers use less than they may, and small machines rely on that.
    """
    found = [host for host in hosts if host.memory_mb is None or host.memory_mb >= flavor.ram_mb]
    if not found:
        most = max(host.memory_mb or 0 for host in hosts)
        raise OverLimit(
            f"Flavor {flavor.id} needs {flavor.ram_mb} MB of memory, but no database host has over {most} MB."
        )
    return found


def _support(claimed: Sequence[tuple[Host, Datastore]]) -> tuple[int, int, tuple[int, ...]]:
    """The support for a version, to compare versions by: hosts, then the age of the oldest host, then the number."""
    first_us = min(host.created_us for host, _ in claimed)
    return len({host.id for host, _ in claimed}), -first_us, _number(claimed[0][1].version)


def _most_common(claimed: Sequence[tuple[Host, Datastore]]) -> Datastore:
    by_full: dict[str, list[tuple[Host, Datastore]]] = {}
    for host, entry in claimed:
        by_full.setdefault(entry.full_version, []).append((host, entry))
    best = max(by_full.values(), key=lambda same: (_support(same)[:2], _number(same[0][1].full_version)))
    return best[0][1]


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
