"""The queue of the control plane: enqueued work runs to its end, however often the worker is killed.

Only this module knows DBOS. The queue's tables are in the catalog's database, so that a row and the work that it needs
are one transaction. Arguments are ids only, because they are stored in clear.
"""

import fcntl
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import structlog
from dbos import DBOS, DBOSClient, DBOSPortableJSONSerializer

from snaphold.catalog.database import Catalog, Transaction
from snaphold.catalog.files import EXCHANGED
from snaphold.errors import SetupError, Unavailable

if TYPE_CHECKING:
    import sqlalchemy as sa

_log = structlog.get_logger()

_APPLICATION = "snaphold"
_VERSION = "1"  # of all workflows: if the steps of one change, it gets a new name; the version stays
_QUEUE = "work"
_QUEUES_OF = {"copy_backup": "copies", "prove_objects": "proofs"}  # work that takes hours delays no other work
_QUEUES = {  # the number of workflows at a time, and seconds between two polls, each of which takes milliseconds
    _QUEUE: (4, 0.5),  # a deleted backup is hidden before
    "copies": (2, 0.25),
    "proofs": (2, 0.5),
}
_EXECUTOR = "worker"
_LISTEN_S = 0.1  # no workflow listens, but the end of the process waits for the next poll
_LAST_WORK_S = 1.0  # for work to end by itself
_AGAIN_S = 1.0  # until work is run again after the catalog did not answer


class Queue:
    """The sending side: any process that writes to the catalog. Implements ``service.deployment.Enqueuer``."""

    def __init__(self, catalog: Catalog) -> None:
        DBOS.migrate(str(catalog.engine.url))
        self._client = DBOSClient(system_database_engine=catalog.engine, serializer=DBOSPortableJSONSerializer())

    def enqueue(self, tx: Transaction, workflow: str, *ids: str) -> None:
        """Enqueue ``workflow`` with these ids, if and only if ``tx`` commits."""
        queue = _QUEUES_OF.get(workflow, _QUEUE)
        self._client.enqueue_in_transaction(
            tx.connection, {"workflow_name": workflow, "queue_name": queue, "app_version": _VERSION}, *ids
        )


class QueueRunner:
    """The running side, a context manager: one in a process, and one on a catalog, by a file lock on ``lock``.

    A handler gets the ids of one piece of work. It must be able to run twice: it is run again after a crash, and when
    the catalog did not answer (``Unavailable``), since work that has failed is not repeated by DBOS.

    Raises:
        SetupError: another process works on this catalog's queue.
    """

    def __init__(self, catalog: Catalog, handlers: Mapping[str, Callable[..., None]], lock: Path) -> None:
        self._catalog = catalog
        self._engine: sa.Engine | None = None
        self._handlers = handlers
        self._lock_path = lock
        self._lock: int | None = None
        self._ending = threading.Event()
        self._ended = threading.Condition()  # guards the number of workflows that are at work
        self._at_work = 0

    def __enter__(self) -> Self:
        self._lock = _take_lock(self._lock_path)
        self._engine = self._catalog.another_engine()
        DBOS(
            config={
                "name": _APPLICATION,
                "system_database_url": str(self._engine.url),
                "system_database_engine": self._engine,
                "serializer": DBOSPortableJSONSerializer(),
                "executor_id": _EXECUTOR,
                "application_version": _VERSION,
                "log_level": "WARNING",
                "notification_listener_polling_interval_sec": _LISTEN_S,
            }
        )
        for name, handler in self._handlers.items():
            DBOS.workflow(name=name)(self._workflow(name, handler))
        logging.getLogger("dbos").addFilter(said_once)
        DBOS.launch()
        for queue, (at_once, poll_s) in _QUEUES.items():
            DBOS.register_queue(queue, worker_concurrency=at_once, polling_interval_sec=poll_s)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        with self._ended:
            self._ended.wait_for(lambda: not self._at_work, _LAST_WORK_S)
        logging.getLogger("dbos").removeFilter(said_once)
        DBOS.destroy(destroy_registry=True, workflow_completion_timeout_sec=0)
        if self._engine is not None:
            self._engine.dispose()
        if self._lock is not None:
            os.close(self._lock)

    def _workflow(self, name: str, handler: Callable[..., None]) -> Callable[..., None]:
        def workflow(*ids: str) -> None:
            with self._counted():
                while True:
                    try:
                        return handler(*ids)
                    except Unavailable as error:
                        _log.warning("work.delayed", work=name, ids=ids, reason=str(error))
                        if self._ending.wait(_AGAIN_S):
                            raise

        workflow.__qualname__ = f"workflow_{name}"
        return workflow

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._ended:
            self._at_work += 1
        try:
            yield
        finally:
            with self._ended:
                self._at_work -= 1
                self._ended.notify_all()


def said_once(record: logging.LogRecord) -> bool:
    """Whether DBOS may log this record: it would repeat at every poll an error that is logged once elsewhere."""
    return EXCHANGED not in record.getMessage()


def _take_lock(path: Path) -> int:
    """Lock the catalog's queue: two runners with one executor id would run a step twice."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise SetupError(f"another worker is at work on this catalog ({path})") from error
    return handle
