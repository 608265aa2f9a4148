"""The processes of the service, one function each: they run until SIGTERM or SIGINT."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import structlog

from snaphold.cli.logs import set_up_logs
from snaphold.cli.options import Given
from snaphold.cli.state import Endpoint, StateDirectory, parse_regions
from snaphold.errors import SetupError

if TYPE_CHECKING:
    from snaphold.service.deployment import Deployment

_log = structlog.get_logger(__name__)


def run_api(given: Given, *, with_worker: bool) -> None:
    """The API of one region, and with ``--with-worker`` its worker in a thread."""
    import uvicorn  # noqa: PLC0415

    from snaphold.cli.control import built_app, opened_deployment  # noqa: PLC0415

    region, state = _one_region(given)
    set_up_logs(given.settings, region.name)
    stopping = threading.Event()
    with opened_deployment(given.settings, state, region.name) as deployment:
        app = built_app(deployment, state, region)
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                host=region.address,
                port=region.port,
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=2,
                timeout_keep_alive=30,
            )
        )
        failures: list[BaseException] = []

        def work() -> None:
            try:
                _work(deployment, state, region, stopping)
            except BaseException as error:  # noqa: BLE001 - raised again below, in the main thread
                failures.append(error)
                server.should_exit = True

        # uvicorn sends the signal that ended it once more, to whoever handled it before: to nobody.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        worker = threading.Thread(target=work, name="worker")
        if with_worker:
            worker.start()
        try:
            server.run()
        finally:
            stopping.set()
            if with_worker:
                worker.join()
        if failures:
            raise failures[0]
        if not server.started:
            raise SetupError(f"region {region.name} could not listen on {region.address}:{region.port}")


def run_worker(given: Given) -> None:
    """The worker of one region."""
    from snaphold.cli.control import opened_deployment  # noqa: PLC0415

    region, state = _one_region(given)
    set_up_logs(given.settings, f"{region.name}-worker")
    with opened_deployment(given.settings, state, region.name) as deployment, _until_stopped() as stopping:
        _work(deployment, state, region, stopping)


def run_agent(given: Given) -> None:
    """The agent of this machine."""
    from snaphold.cli.machine import built_agent  # noqa: PLC0415

    state = StateDirectory(given.state_dir)
    regions = parse_regions(given.settings.region)
    state.make([region.name for region in regions])
    set_up_logs(given.settings, "agent")
    with state.lock("agent"), _until_stopped() as stopping:
        built_agent(given.settings, state, regions).run(stopping)


def _work(deployment: "Deployment", state: StateDirectory, region: Endpoint, stopping: threading.Event) -> None:
    from snaphold.cli.stores import stores_of  # noqa: PLC0415
    from snaphold.worker.worker import run_worker as work  # noqa: PLC0415

    work(deployment, stores_of(state, region.name), state.region(region.name) / "worker.lock", stopping)


def _one_region(given: Given) -> tuple[Endpoint, StateDirectory]:
    regions = parse_regions(given.settings.region)
    if len(regions) != 1:
        raise SetupError("one process serves one region (--region NAME=ADDRESS:PORT, once)")
    state = StateDirectory(given.state_dir)
    state.make([regions[0].name])
    return regions[0], state


@contextlib.contextmanager
def _until_stopped() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set. Set by a thread: a handler may not wait for the event's own lock."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=stopping.set).start())
    yield stopping
