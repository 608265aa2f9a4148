"""The processes of the service, one function each: they run until SIGTERM or SIGINT."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Final

import structlog

from snaphold.cli.logs import set_up_logs
from snaphold.cli.options import Given
from snaphold.cli.state import Endpoint, StateDirectory, parse_regions
from snaphold.errors import SetupError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from snaphold.api.connections import Bounds
    from snaphold.cli.peers import PeerRegistry
    from snaphold.service.deployment import Deployment

_LAST_ANSWERS_S: Final = 2  # what requests get to end by themselves when the process is told to
_KEEP_ALIVE_S: Final = 30

_log = structlog.get_logger(__name__)


def run_api(given: Given, name: str | None, *, with_worker: bool, with_local_agent: bool) -> None:
    """The API of one region, and with ``with_worker`` its worker in a thread.

    ``with_local_agent``: there is a token for this machine's agent before the API answers anyone.
    """
    from snaphold.api import create_app  # noqa: PLC0415
    from snaphold.api.connections import bounds_of  # noqa: PLC0415
    from snaphold.cli.control import Objects, make_local_token, opened_deployment, peer_token  # noqa: PLC0415
    from snaphold.cli.peers import peer_registry_of  # noqa: PLC0415
    from snaphold.cli.stores import stores_of  # noqa: PLC0415
    from snaphold.identity.embedded import open_embedded  # noqa: PLC0415
    from snaphold.model import Rate  # noqa: PLC0415
    from snaphold.service import limits  # noqa: PLC0415

    region, state = _one_region(given, name)
    regions = parse_regions(given.settings.region)
    set_up_logs(given.settings, region.name)
    stopping = threading.Event()

    neighbours = peer_registry_of(given.settings.peers, state, regions, region.name)
    peer_token(state, region.name)  # the regions beside this one look for it
    with (
        state.answering(region.name),
        opened_deployment(given.settings, state, region.name, neighbours.services()) as deployment,
        contextlib.closing(
            open_embedded(
                state.path,
                given.settings.token_lifetime_s,
                logins_per_minute=limits.allowed(given.settings, Rate.LOGINS),
            )
        ) as identity,
    ):
        if with_local_agent:
            make_local_token(deployment, state)
        stores = stores_of(state, region.name)
        app = create_app(
            deployment,
            identity,
            regions={endpoint.name: endpoint.url for endpoint in regions},
            object_reader=Objects(stores),
            containers=stores.of,
            known_peers=neighbours,
            ending=stopping,
        )
        _serve(
            app,
            region,
            bounds_of(given.settings),
            stopping,
            (lambda: _work(deployment, neighbours, stopping)) if with_worker else None,
        )


def run_worker(given: Given, name: str | None) -> None:
    """The worker of one region."""
    from snaphold.cli.control import opened_deployment  # noqa: PLC0415
    from snaphold.cli.peers import peer_registry_of  # noqa: PLC0415

    given.state.require()
    region, state = _one_region(given, name)
    regions = parse_regions(given.settings.region)
    neighbours = peer_registry_of(given.settings.peers, state, regions, region.name)
    set_up_logs(given.settings, f"{region.name}-worker")
    services = neighbours.services()
    with opened_deployment(given.settings, state, region.name, services) as deployment, _until_stopped() as stopping:
        _work(deployment, neighbours, stopping)


def run_agent(given: Given) -> None:
    """The agent of this machine."""
    from snaphold.cli.machine import built_agent  # noqa: PLC0415

    state = given.state
    state.require()
    regions = parse_regions(given.settings.region)
    state.make([region.name for region in regions])
    given.keep_private()
    set_up_logs(given.settings, "agent")
    with state.lock("agent"), _until_stopped() as stopping:
        built_agent(given.settings, state, regions).run(stopping)


def _serve(
    app: "FastAPI", region: Endpoint, bounds: "Bounds", stopping: threading.Event, work: Callable[[], None] | None
) -> None:
    """Answer requests until the process is told to end; meanwhile ``work`` in a thread, whose failure ends it too.

    Raises:
        SetupError: nobody can listen there.
    """
    import uvicorn  # noqa: PLC0415

    from snaphold.api.connections import Connections  # noqa: PLC0415

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            stopping.set()  # agents' long polls end too, and the worker
            super().handle_exit(sig, frame)

    server = Server(
        uvicorn.Config(
            app,
            host=region.address,
            port=region.port,
            http=Connections(bounds).protocol,  # type: ignore[arg-type] # what makes a protocol is enough
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=_LAST_ANSWERS_S,
            timeout_keep_alive=_KEEP_ALIVE_S,
        )
    )
    failures: list[BaseException] = []

    def work_beside(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised again below, in the main thread
            failures.append(error)
            server.should_exit = True

    # uvicorn sends the signal that ended it once more, to whoever handled it before: to nobody.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    worker = None if work is None else threading.Thread(target=work_beside, args=(work,), name="worker")
    if worker is not None:
        worker.start()
    try:
        server.run()
    finally:
        stopping.set()
        if worker is not None:
            worker.join()
    if failures:
        raise failures[0]
    if not server.started:
        raise SetupError(f"region {region.name} could not listen on {region.address}:{region.port}")


def _work(deployment: "Deployment", neighbours: "PeerRegistry", stopping: threading.Event) -> None:
    from snaphold.cli.saving import opened_saver  # noqa: PLC0415
    from snaphold.cli.stores import stores_of  # noqa: PLC0415
    from snaphold.worker.worker import run_worker as work  # noqa: PLC0415

    state, region = neighbours.state, deployment.region
    with opened_saver(deployment.settings, state, deployment) as saver:
        lock = state.worker_lock(region)
        stores = stores_of(state, region)
        work(deployment, stores, saver, lock, stopping, peers=neighbours.stores())


def _one_region(given: Given, name: str | None) -> tuple[Endpoint, StateDirectory]:
    """The region of this process: the one named, or the only one there is."""
    regions = parse_regions(given.settings.region)
    mine = [region for region in regions if name in {None, region.name}]
    if len(mine) != 1:
        raise SetupError(f"which region is this process's? (--name, one of {', '.join(map(str, regions))})")
    state = given.state
    state.make([mine[0].name])
    given.keep_private()
    state.make_store(mine[0].name)
    return mine[0], state


@contextlib.contextmanager
def _until_stopped() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set. Set by a thread: a handler may not wait for the event's own lock."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=stopping.set).start())
    yield stopping
