"""What the tasks of one region work with."""

import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, ParamSpec, TypeVar

from snaphold.config import Settings
from snaphold.engines.base import Engine
from snaphold.host.servers import Servers
from snaphold.store.base import Stores

_NICENESS: Final = 10  # of the threads that move bytes; see nice(2)

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True)
class Room:
    """The machine's servers, what can back them up, and the region's object stores."""

    servers: Servers
    engines: Mapping[str, Engine]  # by datastore type
    stores: Stores
    settings: Settings


def nicely(work: Callable[_Arguments, _Result], *arguments: _Arguments.args, **named: _Arguments.kwargs) -> _Result:
    """Do ``work`` in a thread that gives way to others, as do the threads that it starts.

    Compression takes every core that it gets. The process itself is not niced: database servers that it starts would
    be too, for all their lives.
    """
    with ThreadPoolExecutor(1, f"{threading.current_thread().name}-bytes", initializer=_be_nice) as one:
        return one.submit(work, *arguments, **named).result()


def _be_nice() -> None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
