"""Where new instances go, by what hosts say of themselves."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from snaphold.errors import OverLimit, Superseded, Unavailable
from snaphold.model import FLAVORS, Host, InstanceStatus
from snaphold.service.host_registry import add_host, authenticate_host
from snaphold.service.instances import create_instance, resize_flavor, show_instance
from snaphold.service.placement import offers_of
from tests.support.region import ACCOUNT, Region, an_instance, open_region


def another_host(region: Region, **told: Any) -> Region:
    """A second host of the same region, which says hello; ``told``: what else it says of itself."""
    token = add_host(region.deployment, "another")
    host_id = authenticate_host(region.deployment, token)
    other = Region(deployment=region.deployment, clock=region.clock, host_id=host_id, token=token)
    other.hello(**told)
    return other


def _host(name: str, added_us: int, *full_versions: str) -> Host:
    return Host(
        id=name,
        name=name,
        datastores=[
            {"type": "mariadb", "version": full.rpartition(".")[0], "full_version": full} for full in full_versions
        ],
        shared_system_user=False,
        accepts_shared=True,
        created_us=added_us,
        session=None,
        seen_us=None,
    )


@pytest.mark.parametrize(
    ("there", "default"),
    [
        ([_host("a", 1, "10.11.19"), _host("b", 2, "99.99.99")], "10.11.19"),
        ([_host("b", 2, "99.99.99"), _host("a", 1, "10.11.19")], "10.11.19"),
        ([_host("a", 1, "10.11.19"), _host("b", 2, "10.11.99"), _host("c", 3, "10.11.99")], "10.11.99"),
        ([_host("a", 1, "10.11.19"), _host("b", 2, "11.8.3"), _host("c", 3, "11.8.3")], "11.8.3"),
        ([_host("a", 1, "10.11.19", "11.8.3")], "11.8.3"),
        ([_host("a", 1, "10.11.19"), _host("b", 2, "10.11.99")], "10.11.19"),
    ],
)
def test_the_default_version(there: list[Host], default: str) -> None:
    """What most hosts run, else what the host that was added first runs: one host cannot change it by a claim."""
    assert [offer.datastore.full_version for offer in offers_of(there) if offer.is_default] == [default]


def test_a_flavor_larger_than_every_host(region: Region) -> None:
    """It is refused at once, with a word on memory, for a new instance and for one that is there."""
    region.hello(memory_mb=1000)
    instance = region.active_instance()
    words = "Flavor 2 needs 1024 MB of memory, but no database host has over 1000 MB"
    with pytest.raises(OverLimit, match=words):
        create_instance(region.deployment, ACCOUNT, an_instance(flavor=FLAVORS[2]))
    with pytest.raises(OverLimit, match=words):
        resize_flavor(region.deployment, ACCOUNT, instance.id, FLAVORS[2])
    assert show_instance(region.deployment, ACCOUNT, instance.id).status is InstanceStatus.ACTIVE


def test_addresses(region: Region) -> None:
    """Each instance gets a free address of its host's networks; where there is none, none is made."""
    region.hello(networks=["127.88.0.8/30"], instance_port=3307, taken=["127.88.0.10"])
    made = [create_instance(region.deployment, ACCOUNT, an_instance()) for _ in range(3)]
    addresses = {instance.hostname for instance in made}
    assert addresses == {"127.88.0.8", "127.88.0.9", "127.88.0.11"}
    assert {instance.port for instance in made} == {3307}
    with pytest.raises(Unavailable, match="no free address"):
        create_instance(region.deployment, ACCOUNT, an_instance())


def test_a_host_without_a_free_address(region: Region) -> None:
    """It is passed over, however empty it is; only where no host has a free address is a new instance refused."""
    region.hello(networks=["127.88.0.8/32"])
    full = another_host(region, networks=["10.0.0.1/32"], taken=["10.0.0.1"])
    made = create_instance(region.deployment, ACCOUNT, an_instance())
    assert (made.hostname, made.host_id) == ("127.88.0.8", region.host_id)
    with pytest.raises(Unavailable, match="no free address"):
        create_instance(region.deployment, ACCOUNT, an_instance())
    full.hello(networks=["10.0.0.1/32"])
    assert create_instance(region.deployment, ACCOUNT, an_instance()).host_id == full.host_id


def test_an_address_of_another_hosts_instance(region: Region) -> None:
    """It is no address that a host may report, nor one that a new instance gets; a loopback address is, of each."""
    shared = ["10.0.0.0/30", "127.88.0.8/32"]
    region.hello(networks=shared, taken=["10.0.0.1", "127.88.0.8"])
    mine = region.active_instance()
    other = another_host(region, networks=shared, taken=["10.0.0.1"])
    region.heartbeat()
    made = [create_instance(region.deployment, ACCOUNT, an_instance()) for _ in range(2)]
    assert {one.host_id for one in made} == {other.host_id}
    assert {one.hostname for one in made} == {"10.0.0.2", "10.0.0.3", "127.88.0.8"} - {mine.address}
    task = other.claim()
    assert task is not None
    with pytest.raises(Superseded, match="another instance has"):
        other.report(task, address=mine.address)


def test_an_address_that_was_only_reserved(region: Region) -> None:
    """A host that reports it for another instance is right: whatever was to get it, and has never run, gets another."""
    region.hello(networks=["127.88.0.8/29"])
    first, waiting = (create_instance(region.deployment, ACCOUNT, an_instance()) for _ in range(2))
    task = region.claim()
    assert task is not None
    assert task.instance_id == first.id
    region.report(task, address=waiting.hostname)
    ran = show_instance(region.deployment, ACCOUNT, first.id)
    assert (ran.status, ran.address, ran.hostname) == (InstanceStatus.ACTIVE, waiting.hostname, waiting.hostname)
    moved = show_instance(region.deployment, ACCOUNT, waiting.id)
    assert moved.hostname not in {None, waiting.hostname}
    task = region.claim()
    assert task is not None
    assert task.instance is not None
    assert (task.instance_id, task.instance.address) == (waiting.id, moved.hostname)


def test_an_address_that_was_taken_meanwhile(region: Region) -> None:
    """The host takes another one of its networks, and the instance is called by that."""
    region.hello(networks=["127.88.0.0/24"])
    instance = create_instance(region.deployment, ACCOUNT, an_instance())
    task = region.claim()
    assert task is not None
    assert task.instance is not None
    assert task.instance.address == instance.hostname
    other = "127.88.0.7" if instance.hostname != "127.88.0.7" else "127.88.0.8"
    region.report(task, address=other)
    found = show_instance(region.deployment, ACCOUNT, instance.id)
    assert (found.status, found.hostname, found.address) == (InstanceStatus.ACTIVE, other, other)


@pytest.mark.parametrize("where", ["127.89.0.1", "another instance's"])
def test_an_address_that_cannot_be(region: Region, where: str) -> None:
    """One outside of the host's networks, or another instance's, is not believed: the instance is in ERROR."""
    region.hello(networks=["127.88.0.0/24"])
    first = region.active_instance()
    instance = create_instance(region.deployment, ACCOUNT, an_instance())
    task = region.claim()
    assert task is not None
    told = where if where.startswith("127") else str(first.address)
    with pytest.raises(Superseded, match=told):
        region.report(task, address=told)
    found = show_instance(region.deployment, ACCOUNT, instance.id)
    assert (found.status, found.address) == (InstanceStatus.ERROR, None)


@pytest.mark.parametrize("networks", [["0.0.0.0/0"], ["8.8.8.0/24"], []], ids=repr)
@pytest.mark.parametrize("address", ["8.8.8.8", "0.0.0.0", "255.255.255.255", "224.0.0.1", "::"])  # noqa: S104
def test_an_address_that_no_operator_named(region: Region, networks: list[str], address: str) -> None:
    """A host cannot send clients to a public or special address, whatever networks it reports."""
    region.hello(networks=["127.88.0.0/24"])
    instance = create_instance(region.deployment, ACCOUNT, an_instance())
    region.hello(networks=networks)
    task = region.claim()
    assert task is not None
    with pytest.raises(Superseded, match="none of its networks"):
        region.report(task, address=address)
    assert show_instance(region.deployment, ACCOUNT, instance.id).address is None


def test_a_public_network_that_the_operator_named(tmp_path: Path) -> None:
    """An address within ``instance_networks`` of the API process is one that a host may offer, public or not."""
    region = open_region(tmp_path, instance_networks=["8.8.8.0/24"])
    region.hello(networks=["8.8.8.0/25", "9.9.9.0/24"])
    instance = region.active_instance()
    assert str(instance.address).startswith("8.8.8.")
    region.deployment.catalog.close()


def test_hostnames_in_a_domain(tmp_path: Path) -> None:
    """Where the operator has set a domain, each name is in it, and stays whatever becomes of the address."""
    region = open_region(tmp_path, instance_domain="db.example.com")
    region.hello(networks=["127.88.0.0/24"])
    instance = create_instance(region.deployment, ACCOUNT, an_instance())
    assert (
        instance.hostname == f"{hashlib.sha1(instance.id.encode(), usedforsecurity=False).hexdigest()}.db.example.com"
    )
    task = region.claim()
    assert task is not None
    region.report(task, address="127.88.0.7" if instance.reserved_address != "127.88.0.7" else "127.88.0.8")
    assert show_instance(region.deployment, ACCOUNT, instance.id).hostname == instance.hostname
    region.deployment.catalog.close()
