"""What becomes of instances' tasks when their host is silent, or another agent speaks for it."""

from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from snaphold.api.instances import shown_instance
from snaphold.api.links import Links
from snaphold.errors import Unprocessable
from snaphold.model import FLAVORS, Instance, InstanceStatus
from snaphold.protocol import Heartbeat, InstanceState, TaskKind
from snaphold.reasons import HELD_BACK
from snaphold.service.instances import (
    create_instance,
    list_instances,
    resize_flavor,
    restart_instance,
    show_instance,
    start_instance,
    stop_instance,
)
from snaphold.service.outcomes import reap
from snaphold.service.requests import PageRequest
from snaphold.service.sessions import HostWatch, heartbeat
from tests.support.region import ACCOUNT, Region, an_instance


def _stopped(region: Region, instance: Instance) -> None:
    stop_instance(region.deployment, ACCOUNT, instance.id)
    task = region.claim()
    assert task is not None
    region.report(task)


def _restart(region: Region, instance: Instance) -> None:
    restart_instance(region.deployment, ACCOUNT, instance.id)


def _stop(region: Region, instance: Instance) -> None:
    stop_instance(region.deployment, ACCOUNT, instance.id)


def _start(region: Region, instance: Instance) -> None:
    _stopped(region, instance)
    start_instance(region.deployment, ACCOUNT, instance.id)


def _resize(region: Region, instance: Instance) -> None:
    resize_flavor(region.deployment, ACCOUNT, instance.id, FLAVORS[2])


@pytest.mark.parametrize(
    ("ask", "kind", "meanwhile", "after"),
    [
        (_restart, TaskKind.RESTART, InstanceStatus.REBOOT, InstanceStatus.ACTIVE),
        (_stop, TaskKind.STOP, InstanceStatus.SHUTDOWN, InstanceStatus.SHUTDOWN),
        (_start, TaskKind.START, InstanceStatus.REBOOT, InstanceStatus.ACTIVE),
        (_resize, TaskKind.RESIZE, InstanceStatus.RESIZE, InstanceStatus.ACTIVE),
    ],
)
def test_it_waits_for_its_host(
    region: Region,
    ask: Callable[[Region, Instance], None],
    kind: TaskKind,
    meanwhile: InstanceStatus,
    after: InstanceStatus,
) -> None:
    """What may be done twice is taken up again by the host that was silent, and by its next agent: another attempt."""
    instance = region.active_instance()
    ask(region, instance)
    first = region.claim()
    assert first is not None
    region.clock.advance(3600)
    assert reap(region.deployment) == 1
    assert show_instance(region.deployment, ACCOUNT, instance.id).status is meanwhile
    assert region.claim() is not None
    region.hello()
    again = region.claim()
    assert again is not None
    assert (again.kind, again.attempt, again.memory) == (kind, 3, first.memory)
    region.report(again)
    shown = show_instance(region.deployment, ACCOUNT, instance.id)
    assert (shown.status, shown.reason) == (after, None)
    assert shown.flavor_id == (2 if kind is TaskKind.RESIZE else 1)
    assert region.claim() is None


def test_an_instance_never_built_is_not_restarted(region: Region) -> None:
    """One in ERROR that never was ACTIVE has no server that could be restarted or stopped."""
    instance = create_instance(region.deployment, ACCOUNT, an_instance())
    task = region.claim()
    assert task is not None
    region.report(task, ok=False)
    for ask in (_restart, _stop, _resize):
        with pytest.raises(Unprocessable):
            ask(region, instance)


def test_a_server_that_does_not_run_has_a_reason(region: Region) -> None:
    """What its host found shows while the server does not run, without private names, and no longer."""
    instance = region.active_instance()

    def seen(*, running: bool, fault: str | None = None) -> str | None:
        state = InstanceState(id=instance.id, running=running, fault=fault)
        heartbeat(region.deployment, region.host_id, Heartbeat(session=region.session, instances=[state]))
        return show_instance(region.deployment, ACCOUNT, instance.id).reason

    assert seen(running=True) is None
    assert seen(running=False, fault="its server does not run: out of memory") == (
        "its server does not run: out of memory"
    )
    assert seen(running=False, fault="see /var/lib/x") == HELD_BACK
    assert seen(running=True) is None


def test_a_silent_host_shows(region: Region) -> None:
    """Within a lease of its last sign of life: UNKNOWN as its instances' operating status, and its name in the log."""
    links = Links(endpoint="http://127.0.0.1:8779")
    watch = HostWatch(region.deployment)
    instance = region.active_instance()
    never_built = create_instance(region.deployment, ACCOUNT, an_instance())

    def shown() -> list[str]:
        found = list_instances(region.deployment, ACCOUNT, PageRequest(limit=9, marker=None)).instances
        one = show_instance(region.deployment, ACCOUNT, instance.id)
        return [shown_instance(links, "DFW", each).operating_status for each in (*found, one)]

    with capture_logs() as logs:
        watch.look()
        assert shown() == ["NEW", "HEALTHY", "HEALTHY"]
        region.clock.advance(31)
        for _ in range(2):
            watch.look()
        assert shown() == ["NEW", "UNKNOWN", "UNKNOWN"]
        region.heartbeat()
        for _ in range(2):
            watch.look()
        assert shown() == ["NEW", "HEALTHY", "HEALTHY"]
    told = [(entry["event"], entry["host"], entry.get("instances")) for entry in logs]
    assert told == [("host.silent", "host", 2), ("host.back", "host", None)]
    assert never_built.host_id == instance.host_id
