"""``snaphold serve`` and ``snaphold stop``."""

import os
import shlex
import shutil
import signal
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from rich.console import Console

from snaphold.cli.options import Given
from snaphold.cli.supervisor import Child, python, supervise
from snaphold.errors import SetupError
from snaphold.wiring.agent import servers_of
from snaphold.wiring.logs import set_up_logs
from snaphold.wiring.state_directory import Endpoint, StateDirectory, check_port, parse_regions

_RATE_FACTOR: Final = 10  # serve's default: few people share one machine
_STOP_TIMEOUT_S: Final = 30.0
_STOPS_AT_ONCE: Final = 8
_POLL_S: Final = 0.05


def serve(given: Given) -> None:
    """Check the settings and the machine, then start the processes and restart each that ends."""
    regions = parse_regions(given.settings.region)
    state = given.state
    state.make([region.name for region in regions])
    if shutil.which("setpriv") is None:
        raise SetupError("setpriv is not installed on this machine (Debian's package util-linux)")
    set_up_logs(given.settings, "serve")
    with state.lock("serve"):
        engines = servers_of(given.settings, state).engines
        for region in regions:
            check_port(region)
        children = [_control_child(given, region) for region in regions]
        shared = given.settings.shared_system_user or "warn"
        words = given.argv(state_dir=state.path, shared_system_user=shared)
        children.append(Child("agent", python("agent", *words)))
        engine = ", ".join(engine.title for engine in engines)
        supervise(children, [region.url for region in regions], lambda: _print_endpoints(state, regions, engine))


def stop(given: Given) -> None:
    """Stop ``serve`` if it runs, then every database server of the state directory."""
    state = given.state
    state.require()
    console = Console(highlight=False)
    owner = state.owner("serve")
    if owner is not None:
        os.kill(owner, signal.SIGTERM)
        _wait_until_free(state)
        console.print("the service has ended")
    with state.lock("serve"), state.lock("agent"):
        servers = servers_of(given.settings, state)
        running = [instance_id for instance_id in servers.ids() if servers.running(instance_id)]
        with ThreadPoolExecutor(_STOPS_AT_ONCE) as pool:
            list(pool.map(servers.stop, running))
    console.print(f"database servers stopped: {len(running)}")


def _control_child(given: Given, region: Endpoint) -> Child:
    factor = given.settings.rate_factor
    words = given.argv(state_dir=given.state_dir, rate_factor=_RATE_FACTOR if factor is None else factor)
    return Child(region.name, python("api", "--with-worker", "--with-local-agent", "--name", region.name, *words))


def _wait_until_free(state: StateDirectory) -> None:
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    while state.owner("serve") is not None:
        if time.monotonic() > deadline:
            raise SetupError(f"`snaphold serve` on {state.path} does not end")
        time.sleep(_POLL_S)


def _print_endpoints(state: StateDirectory, regions: Sequence[Endpoint], engine: str) -> None:
    console = Console(highlight=False, soft_wrap=True, markup=False)
    for region in regions:
        console.print(f"{region.name} is served at {region.url}/v1.0/ACCOUNT, described at {region.url}/docs")
    console.print(f"database servers: {engine}; state: {state.path}")
    if not state.identity.exists():
        console.print(
            f"add an account:   snaphold account add --state-dir {shlex.quote(str(state.path))} 1234 --user demo\n"
        )
    body = '{"auth":{"passwordCredentials":{"username":"demo","password":"…"}}}'
    console.print(
        f"log in:           curl -H 'Content-Type: application/json' -d '{body}' {regions[0].url}/v2.0/tokens"
    )
