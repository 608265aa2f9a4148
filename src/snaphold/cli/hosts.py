"""``snaphold host``: the hosts of a region. The running service sees each change at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from snaphold.cli.admin import one_region
from snaphold.cli.options import Given, command, with_state
from snaphold.cli.output import AsJSON, print_json, print_outcome, print_rows
from snaphold.wiring.logs import set_up_logs

if TYPE_CHECKING:
    from snaphold.service.deployment import Deployment

host_app = typer.Typer(help="Hosts with database servers.", no_args_is_help=True)

_Name = Annotated[str, typer.Argument(help="the host's name")]
_COLUMNS = {"host": "HOST", "state": "STATE", "last_seen": "LAST SEEN", "instances": "INSTANCES", "runs": "RUNS"}


@command(host_app, "add", with_state)
def add(given: Given, name: _Name) -> None:
    """Make a token for a host. An existing host of this name loses its old one. Prints JSON with the token, once."""
    from snaphold.service import host_registry  # noqa: PLC0415

    with _deployment(given) as deployment:
        told = {"host": name, "region": deployment.region, "token": host_registry.add_host(deployment, name)}
    print_json(told)


@command(host_app, "list", with_state)
def list_(given: Given, *, as_json: AsJSON = False) -> None:
    """List the hosts of a region: whether each has renewed its lease, and how many instances it has."""
    from snaphold.model import rfc3339  # noqa: PLC0415
    from snaphold.service.host_registry import list_hosts  # noqa: PLC0415

    with _deployment(given) as deployment:
        found = list_hosts(deployment)
    rows = [
        {
            "host": one.host.name,
            "id": one.host.id,
            "state": "online" if one.online else "never seen" if one.host.seen_us is None else "silent",
            "last_seen": None if one.host.seen_us is None else rfc3339(one.host.seen_us),
            "instances": one.instances,
            "runs": [f"{entry['type']} {entry['full_version']}" for entry in one.host.datastores],
        }
        for one in found
    ]
    print_rows(rows, _COLUMNS, as_json=as_json)


@command(host_app, "remove", with_state)
def remove(
    given: Given,
    name: _Name,
    *,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="remove it with its instances, as if they had been deleted; their schedules end, their backups stay. "
            "Their servers keep running: stop them on the host",
        ),
    ] = False,
    as_json: AsJSON = False,
) -> None:
    """Remove a host, whose token is refused from then on. A host with instances is removed only with --force."""
    from snaphold.service.host_registry import remove_host  # noqa: PLC0415

    with _deployment(given) as deployment:
        gone = remove_host(deployment, name, force=force)
        region = deployment.region
    forgotten = [{"id": instance.id, "account": instance.account} for instance in gone]
    facts = {"host": name, "region": region, "instances_forgotten": forgotten}
    told = "".join(f"\ninstance {one['id']} of account {one['account']} is forgotten" for one in forgotten)
    print_outcome(f"host {name} is removed from region {region}{told}", facts, as_json=as_json)


@contextmanager
def _deployment(given: Given) -> Iterator["Deployment"]:
    from snaphold.wiring.deployment import opened_deployment  # noqa: PLC0415

    given.state.require()
    set_up_logs(given.settings, "host")
    with opened_deployment(given.settings, given.state, one_region(given)) as deployment:
        yield deployment
