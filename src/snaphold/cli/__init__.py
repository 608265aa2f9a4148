"""The command line: builds each process, and is the only place that wires.

What a command does is in the module that it imports when it runs, so that ``snaphold --help`` is quick.
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
catalog_app = typer.Typer(help="The record of a region.", no_args_is_help=True)
app.add_typer(catalog_app, name="catalog")
store_app = typer.Typer(help="The object store of a region.", no_args_is_help=True)
app.add_typer(store_app, name="store")
state_app = typer.Typer(help="What the service saves of itself.", no_args_is_help=True)
app.add_typer(state_app, name="state")


_RegionName = Annotated[
    str | None, typer.Option("--name", help="which of the regions this process is of, where several are given")
]


def main() -> None:
    """Run the command line. What the operator can repair is one line on standard error, exit status 1."""
    _raise_the_limit_of_open_files()
    try:
        app()
    except SnapholdError as error:
        from snaphold.wiring.logs import printable  # noqa: PLC0415

        sys.stderr.write(f"snaphold: {printable(in_full(error) if error.detail else str(error))}\n")
        sys.exit(1)


def _raise_the_limit_of_open_files() -> None:
    """Many connections, and a file for each table of a backup: the soft limit of most machines, 1024, is too low."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # a hard limit above what the kernel lets anybody have
        resource.setrlimit(resource.RLIMIT_NOFILE, (_MANY_FILES if hard == _INFINITE else min(hard, _MANY_FILES), hard))


def _tell_version(wanted: bool) -> None:  # noqa: FBT001 - what typer calls
    if wanted:
        version()
        raise typer.Exit


@app.callback()
def options(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Say which release this is.")
    ] = False,
) -> None:
    """Physical backups of running databases, and new servers from them, behind the Cloud Databases backup API."""


@app.command("version")
def version() -> None:
    """Say which release this is."""
    from snaphold import __version__  # noqa: PLC0415

    typer.echo(f"snaphold {__version__}")


@_command(app, "serve", with_settings)
def serve(given: Given) -> None:
    """Serve one or more regions from this machine: API, worker and agent, supervised, until SIGTERM or Ctrl-C.

    The database servers go on running when it ends, and are found again at the next start.
    """
    from snaphold.cli.serve import serve as run  # noqa: PLC0415

    run(given)


@_command(app, "stop", with_state)
def stop(given: Given) -> None:
    """End `snaphold serve` on a state directory, and its database servers too."""
    from snaphold.cli.serve import stop as run  # noqa: PLC0415

    run(given)


@_command(app, "api", with_settings)
def api(
    given: Given,
    *,
    name: _RegionName = None,
    with_worker: Annotated[bool, typer.Option("--with-worker", help="do the worker's part here too")] = False,
    with_local_agent: Annotated[
        bool, typer.Option("--with-local-agent", help="make a token for an agent on this machine, if it has none")
    ] = False,
) -> None:
    """Serve the HTTP API of one region."""
    from snaphold.cli.processes import run_api  # noqa: PLC0415

    run_api(given, name, with_worker=with_worker, with_local_agent=with_local_agent)


@_command(app, "worker", with_settings)
def worker(given: Given, *, name: _RegionName = None) -> None:
    """Do what the control plane of one region does later: delete, sweep, give up silent hosts' work."""
    from snaphold.cli.processes import run_worker  # noqa: PLC0415

    run_worker(given, name)


@_command(app, "agent", with_settings)
def agent(given: Given) -> None:
    """Look after the database servers of this machine, for the regions whose API is named.

    The host's token is read from DIR/regions/<NAME>/agent.token.
    """
    from snaphold.cli.processes import run_agent  # noqa: PLC0415

    run_agent(given)


@_command(app, "verify", with_state)
def verify(
    given: Given,
    *,
    every: Annotated[bool, typer.Option("--all", help="every completed backup of the region")] = False,
    level: Annotated[
        str, typer.Option("--level", help="objects: read back; restore: brought up as a throw-away server")
    ] = "objects",
    account: Annotated[str | None, typer.Option("--account", help="only of this account")] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="wait for what the proofs show")] = True,
) -> None:
    """Have backups verify themselves, by the service that runs; for cron.

    Prints a line of JSON for each; exit status 1 when one did not pass. No backup is ever removed for it.
    """
    from snaphold.cli.verify import verify_backups  # noqa: PLC0415
    from snaphold.errors import SetupError  # noqa: PLC0415
    from snaphold.model import VerificationLevel  # noqa: PLC0415

    if level not in list(VerificationLevel):
        raise SetupError(f"there is no level {level} of proof (--level objects, or restore)")
    if not every:
        raise SetupError("which backups are meant? (--all)")
    if not verify_backups(given, VerificationLevel(level), account, wait=wait):
        raise typer.Exit(1)


@_command(catalog_app, "rebuild", with_state)
def catalog_rebuild(
    given: Given,
    *,
    account: Annotated[list[str] | None, typer.Option("--account", help="only of this account; repeatable")] = None,
    deployment: Annotated[
        str | None,
        typer.Option("--deployment", help="the service's own id was lost: go on as the one that wrote the backups"),
    ] = None,
    done: Annotated[
        bool, typer.Option("--done", help="rebuild nothing; what was rebuilt is right, and sweeping may go on")
    ] = False,
) -> None:
    """Make the records of completed backups anew from the manifests in the store.

    What is recorded stays as it is; nothing in the store is touched, and nothing is swept until --done says so.
    Prints JSON; exit status 1 when one of our backups is not whole.
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
    account: Annotated[list[str] | None, typer.Option("--account", help="only of this account; repeatable")] = None,
) -> None:
    """List the objects in the store that belong to no backup. The service may be running; nothing is changed.

    Prints JSON; what is being written right now is left out.
    """
    from snaphold.cli.object_store import check_store  # noqa: PLC0415

    check_store(given, account or [])


@_command(state_app, "backup", with_settings)
def state_backup(given: Given) -> None:
    """Save accounts, hosts and instances' records into the service's own container, as the worker does every night.

    Prints JSON: a line for each region.
    """
    from snaphold.cli.service_state import save_state  # noqa: PLC0415

    save_state(given)


@_command(state_app, "restore", with_state)
def state_restore(
    given: Given,
    *,
    wanted: Annotated[
        str, typer.Option("--from", help="latest, the name of a saved state, or a file that one was copied to")
    ] = "latest",
    deployment: Annotated[
        str | None, typer.Option("--deployment", help="whose state, where several services have saved theirs")
    ] = None,
) -> None:
    """Bring accounts, hosts, instances' records and backups back after the loss of the state directory.

    The store must be where it was. Prints JSON; exit status 1 when one of our backups is not whole.
    """
    from snaphold.cli.service_state import restore_state  # noqa: PLC0415

    if not restore_state(given, wanted, deployment):
        raise typer.Exit(1)
