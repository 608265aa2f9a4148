"""The command line: parses flags, calls what `wiring` builds, and prints.

Each command imports its module when it runs, so that ``snaphold --help`` is quick.
"""

import contextlib
import resource
import sys
from typing import Annotated, Final

import typer

from snaphold.cli.accounts import account_app
from snaphold.cli.hosts import host_app
from snaphold.cli.options import Given, with_settings, with_state
from snaphold.cli.options import command as _command
from snaphold.errors import SnapholdError, in_full

_MANY_FILES: Final = 1 << 20
_INFINITE: Final = resource.RLIM_INFINITY

app = typer.Typer(
    name="snaphold",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(account_app, name="account")
app.add_typer(host_app, name="host")
catalog_app = typer.Typer(help="The catalog of a region.", no_args_is_help=True)
app.add_typer(catalog_app, name="catalog")
store_app = typer.Typer(help="The object store of a region.", no_args_is_help=True)
app.add_typer(store_app, name="store")
state_app = typer.Typer(help="Save and restore the service's own state.", no_args_is_help=True)
app.add_typer(state_app, name="state")


_RegionName = Annotated[
    str | None, typer.Option("--name", help="the region of this process, if several regions are given")
]


def main() -> None:
    """Run the command line. An error that the operator can mend is one line on standard error, with exit status 1."""
    _raise_open_file_limit()
    try:
        app()
    except SnapholdError as error:
        from snaphold.wiring.logs import printable  # noqa: PLC0415

        sys.stderr.write(f"snaphold: {printable(in_full(error) if error.detail else str(error))}\n")
        sys.exit(1)


def _raise_open_file_limit() -> None:
    """Raise the soft limit of open files, often 1024: many connections and a backup's many tables need more."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # the hard limit may be above what the kernel allows
        resource.setrlimit(resource.RLIMIT_NOFILE, (_MANY_FILES if hard == _INFINITE else min(hard, _MANY_FILES), hard))


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it so
    if wanted:
        version()
        raise typer.Exit


@app.callback()
def options(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the release.")
    ] = False,
) -> None:
    """Physical backups of running databases, and new servers from them, behind the Cloud Databases backup API."""


@app.command("version")
def version() -> None:
    """Print the release."""
    from snaphold import __version__  # noqa: PLC0415

    typer.echo(f"snaphold {__version__}")


@_command(app, "serve", with_settings)
def serve(given: Given) -> None:
    """Serve one or more regions from this machine until SIGTERM or Ctrl-C: API, worker and agent, supervised.

    The database servers keep running when the service ends. The next start finds them.
    """
    from snaphold.cli.serve import serve as run  # noqa: PLC0415

    run(given)


@_command(app, "stop", with_state)
def stop(given: Given) -> None:
    """Stop `snaphold serve` on a state directory, and its database servers."""
    from snaphold.cli.serve import stop as run  # noqa: PLC0415

    run(given)


@_command(app, "api", with_settings)
def api(
    given: Given,
    *,
    name: _RegionName = None,
    with_worker: Annotated[
        bool, typer.Option("--with-worker", help="run the region's worker in this process too")
    ] = False,
    with_local_agent: Annotated[
        bool, typer.Option("--with-local-agent", help="make a token for the agent of this machine, if it has none")
    ] = False,
) -> None:
    """Serve the HTTP API of one region."""
    from snaphold.cli.processes import run_api  # noqa: PLC0415

    run_api(given, name, with_worker=with_worker, with_local_agent=with_local_agent)


@_command(app, "worker", with_settings)
def worker(given: Given, *, name: _RegionName = None) -> None:
    """Run the worker of one region: it deletes, copies, schedules, sweeps and abandons the tasks of silent hosts."""
    from snaphold.cli.processes import run_worker  # noqa: PLC0415

    run_worker(given, name)


@_command(app, "agent", with_settings)
def agent(given: Given) -> None:
    """Run the agent of this machine, which takes and restores backups and runs the database servers.

    It works for each region given, and reads the host's token from DIR/regions/NAME/agent.token.
    """
    from snaphold.cli.processes import run_agent  # noqa: PLC0415

    run_agent(given)


@_command(app, "verify", with_state)
def verify(
    given: Given,
    *,
    every: Annotated[bool, typer.Option("--all", help="all completed backups of the region")] = False,
    level: Annotated[
        str, typer.Option("--level", help="objects: read the objects back; restore: restore to a temporary server")
    ] = "objects",
    account: Annotated[str | None, typer.Option("--account", help="only backups of this account")] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="wait for the results")] = True,
) -> None:
    """Have the running service verify backups, for example from cron.

    Prints a line of JSON for each backup. The exit status is 1 when one did not pass. No backup is removed.
    """
    from snaphold.cli.verify import verify_backups  # noqa: PLC0415
    from snaphold.errors import SetupError  # noqa: PLC0415
    from snaphold.model import VerificationLevel  # noqa: PLC0415

    if level not in list(VerificationLevel):
        raise SetupError(f"there is no verification level {level} (--level objects, or restore)")
    if not every:
        raise SetupError("name the backups to verify (--all)")
    if not verify_backups(given, VerificationLevel(level), account, wait=wait):
        raise typer.Exit(1)


@_command(catalog_app, "rebuild", with_state)
def catalog_rebuild(
    given: Given,
    *,
    account: Annotated[list[str] | None, typer.Option("--account", help="only this account; repeatable")] = None,
    deployment: Annotated[
        str | None,
        typer.Option(
            "--deployment", help="the id of the deployment that wrote the backups, if this service has lost its id"
        ),
    ] = None,
    done: Annotated[
        bool, typer.Option("--done", help="rebuild nothing; confirm the rebuilt catalog, so that sweeping goes on")
    ] = False,
) -> None:
    """Rebuild the catalog of completed backups from the manifests in the store.

    Existing records stay as they are, and nothing in the store changes. Nothing is swept until you confirm with --done.
    Prints JSON. The exit status is 1 when one of our backups is incomplete.
    """
    from snaphold.cli.catalog import end_rebuild, rebuild_catalog  # noqa: PLC0415

    if done:
        end_rebuild(given)
    elif not rebuild_catalog(given, account or [], deployment):
        raise typer.Exit(1)


@_command(store_app, "check", with_state)
def store_check(
    given: Given,
    *,
    account: Annotated[list[str] | None, typer.Option("--account", help="only this account; repeatable")] = None,
) -> None:
    """List the objects in the store that belong to no backup. The service may be running; nothing changes.

    Prints JSON. Objects that are just being written are left out.
    """
    from snaphold.cli.object_store import check_store  # noqa: PLC0415

    check_store(given, account or [])


@_command(state_app, "backup", with_settings)
def state_backup(given: Given) -> None:
    """Save accounts, hosts and instances' records into the service's own container, as the worker does each day.

    Prints a line of JSON for each region.
    """
    from snaphold.cli.service_state import save_state  # noqa: PLC0415

    save_state(given)


@_command(state_app, "restore", with_state)
def state_restore(
    given: Given,
    *,
    wanted: Annotated[
        str, typer.Option("--from", help="latest, the name of a saved state, or a file with a copy of one")
    ] = "latest",
    deployment: Annotated[
        str | None, typer.Option("--deployment", help="whose state, if several deployments saved theirs")
    ] = None,
) -> None:
    """Restore accounts, hosts, instances' records and backups after the loss of the state directory.

    The store must be where it was. Prints JSON. The exit status is 1 when one of our backups is incomplete.
    """
    from snaphold.cli.service_state import restore_state  # noqa: PLC0415

    if not restore_state(given, wanted, deployment):
        raise typer.Exit(1)
