import os
import uuid
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from snaphold.config import Settings
from snaphold.host.directory import InstanceDirectory, Record
from snaphold.host.servers import Servers
from snaphold.service.host_registry import add_host, remove_host
from tests.agent.conftest import Place, running_agent
from tests.support.instances import wait_for


def an_instance_without_a_server(state_dir: Path) -> InstanceDirectory:
    """What a host has of an instance whose server does not run."""
    directory = InstanceDirectory(state_dir / "instances", str(uuid.uuid4()))
    record = Record(
        id=directory.path.name,
        account="1234",
        datastore="mariadb",
        version="10.11.1",
        ram_mb=512,
        attempt=1,
        kind="create",
        uid=None,
        address=None,
        port=3306,
        built=True,
    )
    directory.make(record)
    directory.data.mkdir(exist_ok=True)
    return directory


def make_unreadable(directory: Path) -> None:
    """Nest directories so deeply that no path leads to the innermost: listing it by its name is an OSError."""
    here = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(20):
        os.mkdir("n" * 250, dir_fd=here)
        inner = os.open("n" * 250, os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)


def heartbeats(place: Place, count: int) -> None:
    """Wait for so many more."""
    before = place.line.arrived["heartbeat"]
    wait_for(lambda: place.line.arrived["heartbeat"] >= before + count, "heartbeats")


def test_an_instance_that_cannot_be_looked_at(
    place: Place, servers: Servers, host_settings: Settings, state_dir: Path
) -> None:
    """One instance whose files give an error does not silence its host, whatever the error."""
    directory = an_instance_without_a_server(state_dir)
    an_instance_without_a_server(state_dir)
    make_unreadable(directory.data)
    with pytest.raises(OSError, match="name too long"):
        servers.state(directory.path.name)
    with running_agent(place, servers, host_settings):
        heartbeats(place, 2)


def test_a_host_that_cannot_read_its_instances(
    place: Place, servers: Servers, host_settings: Settings, state_dir: Path
) -> None:
    """An error that nobody foresaw ends no loop: the agent is heard again once its cause is gone."""
    instances = state_dir / "instances"
    with running_agent(place, servers, host_settings, fault_pause_s=0.1):
        heartbeats(place, 1)
        instances.rename(instances.with_name("away"))
        wait_for(lambda: _quiet(place), "the heartbeats to stop")
        instances.with_name("away").rename(instances)
        heartbeats(place, 2)


@pytest.mark.engine
def test_a_wish_from_before_a_task_is_none(place: Place, servers: Servers, host_settings: Settings) -> None:
    """A server that a task has stopped is not started because the catalog wanted it to run before, however long ago."""
    site = place.site
    with running_agent(place, servers, host_settings, reconcile_interval_s=0.02):
        body = {"instance": {"name": "i", "flavorRef": 1, "volume": {"size": 1}}}
        instance = site.ok("POST", "/instances", body)["instance"]["id"]
        path = f"/instances/{instance}"
        wait_for(lambda: site.ok("GET", path)["instance"]["status"] == "ACTIVE", "the instance")
        heartbeats(place, 2)
        place.line.lose["heartbeat"] = 1_000_000
        site.ok("POST", f"{path}/action", {"stop": {}})
        wait_for(lambda: site.call("POST", f"{path}/action", {"start": {}}).status_code == 202, "it to be stopped")
        wait_for(lambda: site.ok("GET", path)["instance"]["status"] == "ACTIVE", "it to be started")
        site.ok("POST", f"{path}/action", {"stop": {}})
        wait_for(lambda: not servers.running(instance), "the server to end")
        place.line.cut.wait(1)  # many looks of the agent
        assert not servers.running(instance)
        place.line.lose.clear()
        heartbeats(place, 2)
        place.line.cut.wait(0.5)
        assert not servers.running(instance)


def _quiet(place: Place) -> bool:
    """Whether no heartbeat came in the time of three."""
    before = place.line.arrived["heartbeat"]
    place.line.cut.wait(0.6)
    return place.line.arrived["heartbeat"] == before


@pytest.mark.engine
def test_a_host_that_was_removed(place: Place, servers: Servers, host_settings: Settings, state_dir: Path) -> None:
    """It says once that it is refused and keeps what it has; with another token it is back without a restart."""
    directory = an_instance_without_a_server(state_dir)
    deployment = place.site.region.deployment
    with capture_logs() as logs, running_agent(place, servers, host_settings):
        heartbeats(place, 1)
        remove_host(deployment, "host", force=False)
        refused = "host.refused"
        wait_for(lambda: refused in [line["event"] for line in logs], "the refusal")
        hellos = place.line.arrived["hello"]
        wait_for(lambda: place.line.arrived["hello"] > hellos + 1, "further tries")
        (place.directory / "token").write_text(add_host(deployment, "host"), "ascii")
        heartbeats(place, 1)
    assert [line["event"] for line in logs].count(refused) == 1
    assert servers.ids() == [directory.path.name]


def test_a_host_that_is_not_known_yet(place: Place, servers: Servers, host_settings: Settings) -> None:
    """A fresh service refuses its host until the host is registered: the first refusals are not logged as a warning."""
    token = (place.directory / "token").read_text("ascii")
    (place.directory / "token").write_text("another", "ascii")
    with capture_logs() as logs, running_agent(place, servers, host_settings):
        wait_for(lambda: place.line.arrived["hello"] >= 3, "refusals")
        (place.directory / "token").write_text(token, "ascii")
        heartbeats(place, 1)
    assert "host.refused" not in [line["event"] for line in logs]
