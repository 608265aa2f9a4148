"""Starts and ends server processes, and finds them again in /proc: a server outlives the process that started it."""

import contextlib
import os
import select
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from snaphold.disk import Owner
from snaphold.errors import Permanent
from snaphold.sandbox import Sandbox, command, launched

SERVER_FILES: Final = 1 << 15  # open files of a server: as many as MariaDB asks for by default
_THREADS: Final = 17  # index of a field of /proc/PID/stat, counted after the name
_STARTED: Final = 19
_children: Final[list[subprocess.Popen[bytes]]] = []  # servers that this process started and must reap
_children_lock: Final = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class Process:
    """A process, which is never confused with a later process that has the same id."""

    pid: int
    started: int  # clock ticks since boot

    def alive(self) -> bool:
        """Whether it still runs. A zombie does not."""
        _reap()
        return _start_of(self.pid) == self.started


class Spawned:
    """A program that this process has started."""

    def __init__(self, child: "subprocess.Popen[bytes]") -> None:
        self._child = child
        self.process: Final = Process(pid=child.pid, started=_ticks_of(child.pid))

    def verdict(self, patience_s: float = 5) -> str:
        """How it has ended, in words. ``patience_s`` is how long to wait for its last threads."""
        try:
            status = self._child.wait(patience_s)
        except subprocess.TimeoutExpired:
            return "it has not ended"
        return f"it ended with status {status}" if status >= 0 else f"it was ended by {signal.Signals(-status).name}"


def spawn_detached(
    argv: Sequence[str | Path],
    *,
    sandbox: Sandbox,
    environment: Mapping[str, str],
    directory: Path,
    owner: Owner | None,
    output: Path,
    listening: Sequence[socket.socket] = (),
    socket_names: str | None = None,
) -> Spawned:
    """Start a program in a session of its own, as ``owner`` and in a sandbox. It survives the end of this process.

    Its output goes to ``output`` (mode 0600, truncated first). ``listening``: the two sockets that it inherits
    (listening.py), or none. ``socket_names``: LISTEN_FDNAMES for them.
    """
    clients, extra = (handed.fileno() for handed in listening) if listening else (None, None)
    if listening:
        environment = {**environment, "LISTEN_FDS": "2", "LISTEN_FDNAMES": socket_names or ""}
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        child = subprocess.Popen(  # reaped by _reap
            command(
                argv,
                sandbox=sandbox,
                uid=None if owner is None else owner.uid,
                gid=None if owner is None else owner.gid,
                environment=environment,
                open_files=SERVER_FILES,
                listens=bool(listening),
            ),
            stdin=subprocess.DEVNULL if clients is None else clients,
            stdout=descriptor if extra is None else extra,
            stderr=descriptor,
            env={},
            cwd=directory,
            start_new_session=True,
            umask=0o077,
        )
    except OSError as error:
        raise Permanent(f"{Path(argv[0]).name} cannot be started: {error.strerror}", detail=str(argv[0])) from error
    finally:
        os.close(descriptor)
    spawned = Spawned(child)  # before another thread can reap it: until then no other process gets its id
    with _children_lock:
        _children.append(child)
    return spawned


def find_server(data: Path, owner: Owner | None, serves: Callable[[Sequence[bytes], Path], bool]) -> Process | None:
    """Find the server of a data directory: ``serves`` accepts its command line, and it runs as ``owner``.

    The command line alone proves nothing: any user can start a program with any arguments.
    """
    _reap()
    uid = os.geteuid() if owner is None else owner.uid
    return next((process for process in _processes() if _serves(process.pid, data, uid, serves)), None)


def processes_of(owner: Owner, directory: Path) -> list[Process]:
    """All processes of ``owner`` with a path below ``directory`` on their command line."""
    mark = os.fsencode(directory) + b"/"
    return [
        process
        for process in _processes()
        if _uid_of(process.pid) == owner.uid and any(mark in word for word in _command_line(process.pid))
    ]


def system_users_in_use() -> set[int]:
    """The user ids of all processes on this machine."""
    return {uid for process in _processes() if (uid := _uid_of(process.pid)) is not None}


def end_process(process: Process, *, patience_s: float) -> None:
    """Send SIGTERM, then SIGKILL after ``patience_s`` (0: SIGKILL at once). Returns when the process has ended.

    Raises:
        Permanent: it survives SIGKILL, because it waits in the kernel uninterruptibly.
    """
    with _handle(process) as handle:
        if handle is None:
            return
        if patience_s > 0:
            signal.pidfd_send_signal(handle, signal.SIGTERM)
        if patience_s <= 0 or not _ends_within(handle, patience_s):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
            if not _ends_within(handle, 30):
                raise Permanent(f"process {process.pid} does not end, not even when killed")
    _reap()


def ends_within(process: Process, seconds: float) -> bool:
    """Wait at most this long for a process to end; returns whether it has."""
    with _handle(process) as handle:
        return handle is None or _ends_within(handle, seconds)


@contextmanager
def _handle(process: Process) -> Iterator[int | None]:
    """A pidfd of this process; None when it has ended. It is checked after opening: never another process's."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield handle if process.alive() else None
    finally:
        os.close(handle)


def _ends_within(handle: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _reap() -> None:
    with _children_lock:
        _children[:] = [child for child in _children if child.poll() is None]


def _processes() -> Iterator[Process]:
    for path in Path("/proc").iterdir():
        if path.name.isdigit() and (started := _start_of(int(path.name))) is not None:
            yield Process(pid=int(path.name), started=started)


def _serves(pid: int, data: Path, uid: int, serves: Callable[[Sequence[bytes], Path], bool]) -> bool:
    line = _command_line(pid)
    argv = launched(line) or [b""]
    if not serves(argv, data):
        return False
    # While it is being started, its user may still be ours.
    return _uid_of(pid) in ({uid} if argv[:1] == line[:1] else {uid, os.geteuid()})


def _start_of(pid: int) -> int | None:
    """When a process was started; None if it has ended or is a zombie.

    A killed process looks like a zombie while its last threads end. Until then it keeps its files and its address.
    """
    try:
        facts = _facts_of(pid)
    except (OSError, IndexError):
        return None
    over = facts[0] in {b"Z", b"X"} and int(facts[_THREADS]) <= 1
    return None if over else int(facts[_STARTED])


def _ticks_of(child: int) -> int:
    """When a child that was not reaped yet was started. It may be a zombie."""
    return int(_facts_of(child)[_STARTED])


def _facts_of(pid: int) -> list[bytes]:
    """The fields of /proc/PID/stat after the program's name; the first is the state."""
    return Path(f"/proc/{pid}/stat").read_bytes().rsplit(b")", 1)[1].split()


def _command_line(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def _uid_of(pid: int) -> int | None:
    """The effective user id."""
    try:
        for line in Path(f"/proc/{pid}/status").read_bytes().splitlines():
            if line.startswith(b"Uid:"):
                return int(line.split()[2])
    except OSError:
        return None
    return None
