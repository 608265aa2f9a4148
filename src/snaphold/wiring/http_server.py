"""Runs an application behind uvicorn, with the connections bounded by us."""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Final

import uvicorn
from fastapi import FastAPI

from snaphold.api.connections import Bounds, Connections
from snaphold.errors import SetupError
from snaphold.wiring.state_directory import Endpoint

_GRACE_S: Final = 2  # that requests get to end after the process was told to stop
_KEEP_ALIVE_S: Final = 30


def serve(
    app: FastAPI, region: Endpoint, bounds: Bounds, stopping: threading.Event, work: Callable[[], None] | None
) -> None:
    """Answer requests until SIGTERM or SIGINT, which set ``stopping``.

    ``work`` runs in a thread meanwhile; when it fails, the server stops and the failure is raised.

    Raises:
        SetupError: the server cannot listen on the region's address.
    """

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            stopping.set()  # ends the agents' long polls and the worker
            super().handle_exit(sig, frame)

    server = Server(
        uvicorn.Config(
            app,
            host=region.address,
            port=region.port,
            http=Connections(bounds).protocol,  # type: ignore[arg-type] # uvicorn only calls it to make a protocol
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=_GRACE_S,
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

    # Once it has ended, uvicorn raises the signal again for the handler that was set before: this one ignores it.
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
