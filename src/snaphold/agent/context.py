"""What the tasks of one region work with."""

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
    """The machine's servers, what can back them up, and the region's object stores."""

    servers: Servers
    engines: Engines
    stores: Stores
    settings: Settings

    def low_priority(
        self, work: Callable[_Arguments, _Result], *arguments: _Arguments.args, **named: _Arguments.kwargs
    ) -> _Result:
        """Do ``work`` in a thread that gives way to others, as do the threads that it starts.

        Compression takes every core that it gets. The process itself is not niced: database servers that it starts
        would be too, for all their lives.
        """
        name = f"{threading.current_thread().name}-bytes"
        context = contextvars.copy_context()  # what the log says of each line
        with ThreadPoolExecutor(1, name, initializer=priority_of(self.settings).show) as one:
            return one.submit(context.run, partial(work, *arguments, **named)).result()


def priority_of(settings: Settings) -> Priority:
    """How much backups and restores give way."""
    return Priority(niceness=settings.niceness, io_priority=settings.io_priority)
