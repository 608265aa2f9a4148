"""The supervisor of ``snaphold serve``: starts the processes of one machine and restarts each that ends."""

import contextlib
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Final

import structlog

_POLL_S: Final = 0.2
_FIRST_PAUSE_S: Final = 0.2  # before a restart; doubled each time, up to the longest
_LONGEST_PAUSE_S: Final = 5.0
_STABLE_S: Final = 10.0  # after which a process counts as stable, and its next pause is the first again
_STOP_S: Final = 8.0  # between SIGTERM and SIGKILL

_log = structlog.get_logger(__name__)


class Child:
    """One process, restarted whenever it ends. The kernel kills it when we end, even when we are killed.

    Start it from the main thread only: the kernel kills it when the thread that started it ends.
    """

    def __init__(self, name: str, argv: Sequence[str]) -> None:
        self.name = name
        self._argv = ["setpriv", "--pdeathsig", "KILL", "--", *argv]
        self._pause_s = _FIRST_PAUSE_S
        self._start_at = 0.0
        self._started_at = 0.0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process."""
        self._started_at = time.monotonic()
        self._process = subprocess.Popen(self._argv, stdin=subprocess.DEVNULL)

    def status(self) -> int | None:
        """The exit status, None while it runs."""
        return None if self._process is None else self._process.poll()

    def restart_if_ended(self) -> None:
        """Restart the process, after a pause, if it has ended. Call it again and again."""
        status = self.status()
        if status is None and self._process is not None:
            return
        now = time.monotonic()
        if self._process is not None:
            if now - self._started_at > _STABLE_S:
                self._pause_s = _FIRST_PAUSE_S
            _log.warning("process.ended", name=self.name, status=status, restart_in_s=self._pause_s)
            self._process = None
            self._start_at = now + self._pause_s
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        if now >= self._start_at:
            self.start()

    def stop(self) -> None:
        """Stop the process: SIGTERM, then SIGKILL."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            _log.warning("process.killed", name=self.name)
            self._process.kill()
            self._process.wait()


class Stopped(BaseException):
    """SIGTERM or SIGINT was received."""


def supervise(children: Sequence[Child], urls: Sequence[str], ready: Callable[[], None]) -> None:
    """Start the children, call ``ready`` once every URL answers, and restart children until SIGTERM or SIGINT.

    They are stopped in reverse order.

    Raises:
        SystemExit: a child ended before every URL answered. It has logged why.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    try:
        try:
            for child in children:
                child.start()
            _wait_until_ready(children, urls)
            ready()
            while True:
                time.sleep(_POLL_S)
                for child in children:
                    child.restart_if_ended()
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
            for child in reversed(children):
                child.stop()
    except Stopped:
        return


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise Stopped


def _wait_until_ready(children: Sequence[Child], urls: Sequence[str]) -> None:
    silent = list(urls)
    while silent:
        for child in children:
            if child.status() is not None:
                sys.exit(1)
        silent = [url for url in silent if not _answers(url)]
        if silent:
            time.sleep(_POLL_S)


def _answers(url: str) -> bool:
    try:
        with contextlib.closing(urllib.request.urlopen(url, timeout=2)):  # noqa: S310 - our own URL
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def python(*words: str) -> list[str]:
    """The argument list that runs ``snaphold`` with these words in this interpreter.

    ``-P`` keeps Python from importing modules from the working directory.
    """
    return [sys.executable, "-P", "-m", "snaphold", *words]
