"""Runs the tools: as a checked source of bytes, or to their end.

A tool runs in a session of its own, as the user and in the sandbox that it is given, with its messages in a file. Its
exit status is the verdict; what it printed only explains. It dies with this process: the kernel kills it when the
thread that started it ends (PR_SET_PDEATHSIG, prctl(2)), so all are started by one thread that never ends. Nothing
secret stands in its arguments: they are visible to every user of the machine.
"""

import os
import queue
import select
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

from snaphold import sandbox
from snaphold.errors import Permanent, Superseded
from snaphold.sandbox import Sandbox
from snaphold.stream.priority import Priority

MANY_FILES: Final = 1 << 20  # open at once by a tool: mariabackup holds one for each table of InnoDB
EXIT_WAIT_S: Final = 60.0  # how long a tool may live on after it closed its output
_UNREAD_SIZE: Final = 208 << 10  # bytes, of which Linux allows twice as many less its own; what everybody may ask for
_TAIL: Final = 4096  # bytes at the end of its messages
_MESSAGES: Final = 256 << 10  # bytes of them, at most, that a failure is looked for in
_POLL_S: Final = 0.1  # how soon a stop is noticed


@dataclass(frozen=True, kw_only=True)
class Tool:
    """How to start a tool. ``argv[0]`` names it in messages.

    ``messages``: the file that its standard error is appended to (0600). ``explain``: what a failure's messages mean,
    for people, and what of them the log keeps. ``uid`` and ``gid``: whom it runs as, with no other groups; None: as
    ourselves. ``env``: its whole environment; None: ours. ``sandbox``: what it may reach; None: whatever its user may.
    """

    argv: Sequence[str | Path]
    messages: Path
    uid: int | None = None
    gid: int | None = None
    env: Mapping[str, str] | None = None
    cwd: Path | None = None
    sandbox: Sandbox | None = None
    explain: Callable[[str], tuple[str, str]] = lambda messages: ("the log of its host says why", messages[-_TAIL:])

    @property
    def name(self) -> str:
        """What people call it."""
        return Path(self.argv[0]).name

    def tail(self, size: int = _TAIL) -> str:
        """The end of its messages; empty when there are none."""
        try:
            with self.messages.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - size))
                return file.read().decode("utf-8", "replace").strip()
        except FileNotFoundError:
            return ""


class Running:
    """A started tool. Every method may be called from any thread."""

    def __init__(self, tool: Tool, *, stdin: int = subprocess.DEVNULL, stdout: int = subprocess.DEVNULL) -> None:
        self.tool = tool
        self._lock = threading.Lock()  # between looking whether it lives and signalling it
        try:
            with os.fdopen(os.open(tool.messages, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as messages:
                self._process = _spawn(tool, stdin, stdout, messages)
        except OSError as error:
            raise _not_started(tool, error) from error
        try:
            self._pidfd = os.pidfd_open(self._process.pid)  # until it is reaped, its id is nobody else's
        except OSError as error:
            self.kill()
            self._process.wait()
            raise _not_started(tool, error) from error

    @property
    def pid(self) -> int:
        """Its process id, which is that of its session and group as well."""
        return self._process.pid

    @property
    def stdin(self) -> BinaryIO | None:
        """Its standard input, where that is a pipe; unbuffered."""
        return self._process.stdin  # type: ignore[return-value]

    @property
    def stdout(self) -> BinaryIO | None:
        """Its standard output, where that is a pipe; unbuffered."""
        return self._process.stdout  # type: ignore[return-value]

    def kill(self) -> None:
        """SIGKILL it and whatever it started (SIGTERM is ignored by some tools). Does not wait."""
        with self._lock:
            if self._process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait for its end: the exit status, negative for a signal; None when it still runs after ``timeout_s``.

        What it may have left behind in its group is killed before its id can be given to another process.
        """
        with self._lock:
            if self._process.returncode is not None:
                return self._process.returncode
        if not _readable(self._pidfd, timeout_s):
            return None
        self.kill()
        with self._lock:
            return self._process.wait()

    def end(self) -> None:
        """Kill it where it still runs, wait, and close our ends of its pipes. Once, and last."""
        self.kill()
        self.wait()
        os.close(self._pidfd)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()

    def failure(self, status: int) -> Permanent:
        """The reason of a failure, for people; its detail is the end of the tool's messages."""
        how = f"was ended by {_signal_name(-status)}" if status < 0 else f"failed with exit status {status}"
        words, detail = self.tool.explain(self.tool.tail(_MESSAGES))
        return Permanent(f"{self.tool.name} {how}: {words}", detail=detail)


class ToolStream:
    """A tool's standard output, read like a file: a stream read to its end is a good one.

    It is a socket, which no tool can open by a name (``/dev/stdout``): through a pipe the same bytes take half as
    much processor time again, for both ends take turns at the lock of its pages.

    A context manager: leaving it ends the tool.
    """

    def __init__(self, tool: Tool) -> None:
        try:
            self._socket, output = socket.socketpair()
        except OSError as error:
            raise _not_started(tool, error) from error
        with output:
            try:
                output.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _UNREAD_SIZE)
                self.running = Running(tool, stdout=output.fileno())
            except BaseException:
                self._socket.close()
                raise
        self._ended = False

    def readinto(self, buffer: memoryview) -> int:
        """Fill the buffer's start; 0 at the end, and only when the tool has ended with exit status 0.

        Raises:
            Permanent: the tool failed, was killed, or does not end though it closed its output.
        """
        if self._ended:
            return 0
        count = self._socket.recv_into(buffer)
        if count:
            return count
        status = self.running.wait(EXIT_WAIT_S)
        if status is None:
            raise Permanent(f"{self.running.tool.name} closed its output, but did not end in {EXIT_WAIT_S:.0f} s")
        if status:
            raise self.running.failure(status)
        self._ended = True
        return 0

    def readable(self, timeout_s: float) -> bool:
        """Wait until ``readinto`` would return at once; False when it would not after ``timeout_s``."""
        return _readable(self._socket.fileno(), timeout_s)

    def kill(self) -> None:
        """End the tool now; a ``readinto`` that waits in another thread then raises ``Permanent``."""
        self.running.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.running.end()
        self._socket.close()


def run_tool(tool: Tool, *, timeout_s: float, stop: threading.Event | None = None) -> str:
    """Run a tool that hands on no stream to its end; returns the end of its messages.

    Raises:
        Permanent: it failed, or ran longer than ``timeout_s``.
        Superseded: ``stop`` was set.
    """
    running = Running(tool)
    end = time.monotonic() + timeout_s
    try:
        while (status := running.wait(_POLL_S)) is None:
            if stop is not None and stop.is_set():
                raise Superseded(f"{tool.name} was stopped")
            if time.monotonic() > end:
                raise Permanent(f"{tool.name} did not end in {timeout_s:.0f} s")
    finally:
        running.end()
    if status:
        raise running.failure(status)
    return tool.tail()


def _readable(descriptor: int, timeout_s: float | None) -> bool:
    """Wait until there is something to read, or the process of a pidfd has exited."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(None if timeout_s is None else timeout_s * 1000))


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _spawn(tool: Tool, stdin: int, stdout: int, messages: BinaryIO) -> subprocess.Popen[bytes]:
    """Start a tool from the one thread that never ends. Raises ``Permanent``, ``OSError`` when it cannot be started."""
    name, *arguments = (os.fspath(part) for part in tool.argv)
    program = shutil.which(name, path=(tool.env or os.environ).get("PATH"))
    if program is None:
        raise Permanent(f"{tool.name} cannot be started: there is no such program", detail=name)

    def start() -> subprocess.Popen[bytes]:
        argv = sandbox.command(
            [program, *arguments],
            sandbox=tool.sandbox,
            uid=tool.uid,
            gid=tool.gid,
            environment=tool.env,
            dies_with_us=True,
            open_files=MANY_FILES,
        )
        return subprocess.Popen(
            argv,
            stdin=stdin,
            stdout=stdout,
            stderr=messages,
            bufsize=0,
            env=None if tool.env is None else {},
            cwd=tool.cwd,
            start_new_session=True,
        )

    return _Spawner.run(start)


def _not_started(tool: Tool, error: OSError) -> Permanent:
    return Permanent(f"{tool.name} cannot be started: {error.strerror}")


def set_priority(priority: Priority) -> None:
    """The priority of every tool that this process will start. Once, before the first one."""
    _Spawner.priority = priority


class _Spawner:
    """The thread that starts every child. It is made by the first one, anew in a forked process, and never ends.

    Children inherit its priority.
    """

    priority = Priority(niceness=0)
    _lock = threading.Lock()
    _pid: int | None = None
    _work: "queue.SimpleQueue[tuple[Callable[[], subprocess.Popen[bytes]], Future[subprocess.Popen[bytes]]]]"

    @classmethod
    def run(cls, start: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        """Call ``start`` in that thread, and hand on what it returns or raises."""
        result: Future[subprocess.Popen[bytes]] = Future()
        with cls._lock:
            if cls._pid != os.getpid():
                cls._work = queue.SimpleQueue()
                threading.Thread(target=cls._serve, args=(cls._work,), name="spawner", daemon=True).start()
                cls._pid = os.getpid()
            cls._work.put((start, result))
        return result.result()

    @staticmethod
    def _serve(
        work: "queue.SimpleQueue[tuple[Callable[[], subprocess.Popen[bytes]], Future[subprocess.Popen[bytes]]]]",
    ) -> None:
        courteous = False
        while True:
            start, result = work.get()
            try:
                if not courteous:
                    _Spawner.priority.show()
                    courteous = True
                result.set_result(start())
            except Exception as error:  # noqa: BLE001 -- whoever asked gets it
                result.set_exception(error)
            del start, result
