"""The objects that all tasks of one region use."""

import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import ParamSpec, TypeVar

from snaphold.config import Settings
from snaphold.engines.base import Engines
from snaphold.host.servers import Servers
from snaphold.store.base import Stores
from snaphold.stream.priority import Priority

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True)
class TaskContext:
    """The servers of this machine, the engines, and the region's object stores."""

    servers: Servers
    engines: Engines
    stores: Stores
    settings: Settings

    def low_priority(
        self, work: Callable[_Arguments, _Result], *arguments: _Arguments.args, **named: _Arguments.kwargs
    ) -> _Result:
        """Run ``work`` in a thread with low priority, which the threads that it starts inherit.

        Compression uses every core that it can get. The priority of the process itself is not lowered, because the
        database servers that it starts would inherit it.
        """
        name = f"{threading.current_thread().name}-bytes"
        context = contextvars.copy_context()  # the log's bound variables
        with ThreadPoolExecutor(1, name, initializer=priority_of(self.settings).show) as one:
            return one.submit(context.run, partial(work, *arguments, **named)).result()


def priority_of(settings: Settings) -> Priority:
    """The priority of backups and restores."""
    return Priority(niceness=settings.niceness, io_priority=settings.io_priority)
