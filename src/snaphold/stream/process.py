"""Runs external tools: reads a tool's output as a stream, or waits for its end.

A tool runs in its own session, as the given user, in the given sandbox, and writes its messages to a file. Its exit
status decides about success; its messages only explain a failure. The kernel kills it when the thread that started it
ends (PR_SET_PDEATHSIG, prctl(2)); therefore one thread that never ends starts all tools. The arguments of a tool must
contain no secrets, because every user of the machine can see them.
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

MANY_FILES: Final = 1 << 20  # open at once in a tool: mariabackup keeps one open for each InnoDB table
EXIT_WAIT_S: Final = 60.0  # within which a tool must end after it closed its output
_UNREAD_SIZE: Final = 208 << 10  # bytes; the largest socket buffer that an unprivileged process may request
_TAIL: Final = 4096  # bytes at the end of the messages
_MESSAGES: Final = 256 << 10  # bytes at the end of the messages that are searched for a reason
_POLL_S: Final = 0.1  # between two checks for a stop


@dataclass(frozen=True, kw_only=True)
class Tool:
    """How to start a tool. ``argv[0]`` names it in messages.

    ``messages``: the file that its standard error is appended to (mode 0600). ``explain``: turns its messages after a
    failure into a reason for people and a detail for the log. ``uid``, ``gid``: its user and its only group; None:
    those of this process. ``env``: its whole environment; None: that of this process. ``sandbox``: None means no
    sandbox.
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
        """The name that messages use."""
        return Path(self.argv[0]).name

    def tail(self, size: int = _TAIL) -> str:
        """Return the end of its messages; empty if there are none."""
        try:
            with self.messages.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - size))
                return file.read().decode("utf-8", "replace").strip()
        except FileNotFoundError:
            return ""


class Running:
    """A running tool. All methods are thread-safe."""

    def __init__(self, tool: Tool, *, stdin: int = subprocess.DEVNULL, stdout: int = subprocess.DEVNULL) -> None:
        self.tool = tool
        self._lock = threading.Lock()  # held from checking that it runs until it is signalled
        try:
            with os.fdopen(os.open(tool.messages, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as messages:
                self._process = _spawn(tool, stdin, stdout, messages)
        except OSError as error:
            raise _not_started(tool, error) from error
        try:
            self._pidfd = os.pidfd_open(self._process.pid)  # its id cannot be reused before it is reaped
        except OSError as error:
            self.kill()
            self._process.wait()
            raise _not_started(tool, error) from error

    @property
    def pid(self) -> int:
        """Its process id, which is also the id of its session and its process group."""
        return self._process.pid

    @property
    def stdin(self) -> BinaryIO | None:
        """Its standard input if that is a pipe; unbuffered."""
        return self._process.stdin  # type: ignore[return-value]

    @property
    def stdout(self) -> BinaryIO | None:
        """Its standard output if that is a pipe; unbuffered."""
        return self._process.stdout  # type: ignore[return-value]

    def kill(self) -> None:
        """Send SIGKILL to its process group, because some tools ignore SIGTERM. Does not wait."""
        with self._lock:
            if self._process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait until it ends. Return its exit status, negative for a signal; None if it still runs after ``timeout_s``.

        The remaining processes of its group are killed before its id can be reused.
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
        """Kill it if it still runs, wait, and close the pipes. Call it once, after everything else."""
        self.kill()
        self.wait()
        os.close(self._pidfd)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()

    def failure(self, status: int) -> Permanent:
        """Return the error for a failed exit status, with the tool's explanation."""
        how = f"was ended by {_signal_name(-status)}" if status < 0 else f"failed with exit status {status}"
        words, detail = self.tool.explain(self.tool.tail(_MESSAGES))
        return Permanent(f"{self.tool.name} {how}: {words}", detail=detail)


class ToolStream:
    """A tool's standard output, read like a file. The end of the stream is reported only if the tool succeeded.

    The output is a socket, because a pipe takes half as much processor time again: both ends compete for the lock of
    its pages. A tool cannot open a socket by name (``/dev/stdout``).

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
        """Fill the start of the buffer and return the number of bytes; 0 at the end, after exit status 0.

        Raises:
            Permanent: the tool failed, was killed, or did not end after it closed its output.
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
        """Wait until ``readinto`` would return at once; return False after ``timeout_s``."""
        return _readable(self._socket.fileno(), timeout_s)

    def kill(self) -> None:
        """Kill the tool. A ``readinto`` that waits in another thread then raises ``Permanent``."""
        self.running.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.running.end()
        self._socket.close()


def run_tool(tool: Tool, *, timeout_s: float, stop: threading.Event | None = None) -> str:
    """Run a tool without an output stream until it ends; return the end of its messages.

    Raises:
        Permanent: the tool failed, or ran longer than ``timeout_s``.
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
    """Wait until a descriptor is readable; a pidfd is when its process has ended."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(None if timeout_s is None else timeout_s * 1000))


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _spawn(tool: Tool, stdin: int, stdout: int, messages: BinaryIO) -> subprocess.Popen[bytes]:
    """Start a tool from the spawner thread. Raises ``Permanent`` or ``OSError`` when it cannot be started."""
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
    """Set the priority of all tools that this process starts. Call it once, before the first one starts."""
    _Spawner.priority = priority


class _Spawner:
    """The thread that starts all child processes, which inherit its priority.

    It starts with the first child, and again in a forked process, and never ends.
    """

    priority = Priority(niceness=0)
    _lock = threading.Lock()
    _pid: int | None = None
    _work: "queue.SimpleQueue[tuple[Callable[[], subprocess.Popen[bytes]], Future[subprocess.Popen[bytes]]]]"

    @classmethod
    def run(cls, start: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        """Call ``start`` in that thread, and return its result or raise its exception."""
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
        has_priority = False
        while True:
            start, result = work.get()
            try:
                if not has_priority:
                    _Spawner.priority.show()
                    has_priority = True
                result.set_result(start())
            except Exception as error:  # noqa: BLE001 -- raised by ``run``
                result.set_exception(error)
            del start, result
