"""Stops a process on SIGTERM or SIGINT."""

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def until_stopped() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set.

    A thread sets it: a signal handler must not wait for the event's lock, which the interrupted code may hold.
    """
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=stopping.set).start())
    yield stopping
