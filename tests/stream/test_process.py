"""Tools: their exit status is the verdict, and none outlives its use."""

import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from snaphold.errors import Permanent, Superseded
from snaphold.stream.process import Running, Tool, ToolStream, run_tool

AS_ROOT = os.geteuid() == 0


@pytest.fixture
def messages(tmp_path: Path) -> Path:
    """The file of a tool's messages."""
    return tmp_path / "messages"


def shell(script: str, messages: Path, **more: object) -> Tool:
    """A small tool."""
    return Tool(argv=["/bin/sh", "-c", script], messages=messages, **more)  # type: ignore[arg-type]


def read_all(stream: ToolStream, size: int = 65536) -> bytes:
    """Everything that a tool writes."""
    buffer, read = memoryview(bytearray(size)), bytearray()
    while count := stream.readinto(buffer):
        read += buffer[:count]
    return bytes(read)


def open_files() -> set[str]:
    """What this process has open, by number and by what it is."""
    links = set()
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the directory's own, closed by now
            links.add(f"{link.name} {link.readlink()}")
    return links


def wait_until_gone(pid: int) -> None:
    """Poll, with a deadline, until there is no such process (a zombie is none)."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return
        except (FileNotFoundError, ProcessLookupError):
            return
        threading.Event().wait(0.01)
    pytest.fail(f"process {pid} is still there")


def test_a_stream_read_to_its_end_is_a_good_one(messages: Path) -> None:
    """All bytes come, then 0, again and again, once the tool has ended well."""
    with ToolStream(shell("head -c 3000000 /dev/zero; echo completed >&2", messages)) as stream:
        assert read_all(stream) == bytes(3_000_000)
        assert stream.readinto(memoryview(bytearray(1))) == 0
    assert messages.read_text() == "completed\n"
    assert messages.stat().st_mode & 0o777 == 0o600


def test_a_tool_that_fails_after_its_last_byte(messages: Path) -> None:
    """Whatever was read and printed, a bad exit status fails the last read; the end of the messages is the detail."""
    with ToolStream(shell("echo bytes; echo 'completed OK!' >&2; exit 3", messages)) as stream:
        with pytest.raises(Permanent, match=r"^sh failed with exit status 3: the log of its host says why$") as failed:
            read_all(stream)
        assert failed.value.detail == "completed OK!"
        with pytest.raises(Permanent):
            stream.readinto(memoryview(bytearray(1)))


def test_a_tool_that_is_killed(messages: Path) -> None:
    """A signal is a failure that names it."""
    with ToolStream(shell("echo bytes; kill -9 $$", messages)) as stream, pytest.raises(Permanent, match="SIGKILL"):
        read_all(stream)


def test_kill_frees_a_reader_that_waits(messages: Path) -> None:
    """kill from another thread ends a tool that ignores SIGTERM, with all that it started, and fails the read."""
    with ToolStream(shell("trap '' TERM; sleep 1000 & echo $!; wait", messages)) as stream:
        buffer = memoryview(bytearray(100))
        child = int(bytes(buffer[: stream.readinto(buffer)]))
        killer = threading.Thread(target=stream.kill)
        killer.start()
        with pytest.raises(Permanent, match="SIGKILL"):
            read_all(stream)
        killer.join()
        wait_until_gone(child)


def test_leaving_ends_the_tool(messages: Path) -> None:
    """Nothing of a tool is left when its context is left early, and its output is closed."""
    gc.collect()  # what earlier tests left open and unreachable would else be closed meanwhile
    before = open_files()
    with ToolStream(shell("sleep 1000 & echo $!; cat /dev/zero", messages)) as stream:
        buffer = memoryview(bytearray(10))
        stream.readinto(buffer)
        pid = stream.running.pid
        assert open_files() > before
    wait_until_gone(pid)
    wait_until_gone(int(bytes(buffer).split()[0]))
    assert open_files() <= before


def test_readable_waits_for_bytes_or_the_end(messages: Path) -> None:
    """A caller can look after a silent tool without being held up by it."""
    with ToolStream(shell("read line < /dev/null; exec sleep 1000", messages)) as stream:
        assert not stream.readable(0.01)
        stream.kill()
        assert stream.readable(10)


def test_a_program_that_is_not_there(messages: Path) -> None:
    """What cannot be started is said, with its name, and leaves nothing open."""
    gc.collect()
    before = open_files()
    with pytest.raises(Permanent, match="nothing-like-this cannot be started"):
        ToolStream(Tool(argv=["/usr/bin/nothing-like-this"], messages=messages))
    assert open_files() <= before


def test_the_tool_gets_what_it_is_given(messages: Path, tmp_path: Path) -> None:
    """Environment and directory are the given ones; there is no input, and no terminal or group of ours."""
    tool = shell(
        'echo "$ONLY $HOME|$PWD|"; cat; ps -o pid=,pgid=,sid= -p $$', messages, env={"ONLY": "1"}, cwd=tmp_path
    )
    with ToolStream(tool) as stream:
        first, second = read_all(stream).decode().splitlines()
        assert first == f"1 |{tmp_path}|"
        assert set(second.split()) == {str(stream.running.pid)}


@pytest.mark.skipif(not AS_ROOT, reason="only root can become somebody else")
def test_the_tool_runs_as_the_user_it_is_given(messages: Path) -> None:
    """With root a tool has the given user and group, and no other groups."""
    with ToolStream(shell("id -u; id -g; id -G", messages, uid=312_345, gid=312_345)) as stream:
        assert read_all(stream).split() == [b"312345"] * 3


@pytest.mark.parametrize("uid", [None, 312_345] if AS_ROOT else [None])
def test_a_tool_dies_with_us(tmp_path: Path, uid: int | None) -> None:
    """After kill -9 of the process that started it, from a thread that had ended, the tool is gone."""
    script = f"""
import threading, sys
from pathlib import Path
from snaphold.stream.process import Running, Tool
tool = Tool(argv=["sleep", "1000"], messages=Path({str(tmp_path / "messages")!r}), uid={uid}, gid={uid})
thread = threading.Thread(target=lambda: print(Running(tool).pid, flush=True))
thread.start(); thread.join()
print("alive" if Running(tool).wait(0.2) is None else "dead", flush=True)
sys.stdin.read()
"""
    parent = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert parent.stdout.readline() == "alive\n"
    os.kill(pid, 0)  # the thread that asked for it has ended; it lives
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    wait_until_gone(pid)


def test_a_tool_without_a_stream(messages: Path) -> None:
    """run_tool hands back the messages of a tool that ended well, and fails with those of one that did not."""
    assert run_tool(shell("echo done >&2", messages), timeout_s=10) == "done"
    with pytest.raises(Permanent, match="exit status 1") as failed:
        run_tool(shell("echo oh >&2; exit 1", messages), timeout_s=10)
    assert failed.value.detail == "done\noh"


def test_a_tool_that_takes_too_long(messages: Path) -> None:
    """A tool that does not end in its time is killed, and that is the reason given."""
    with pytest.raises(Permanent, match="did not end in 0 s"):
        run_tool(shell("echo $$ >&2; exec sleep 1000", messages), timeout_s=0.05)
    if messages.read_text():
        wait_until_gone(int(messages.read_text()))


def test_a_tool_that_is_stopped(messages: Path) -> None:
    """A stop ends a running tool."""
    stop = threading.Event()
    stop.set()
    with pytest.raises(Superseded):
        run_tool(shell("exec sleep 1000", messages), timeout_s=1000, stop=stop)


def test_only_the_end_of_long_messages(messages: Path) -> None:
    """An error carries the last lines of a tool that talks much."""
    with pytest.raises(Permanent) as caught:
        run_tool(shell("yes blah | head -c 100000 >&2; echo the end >&2; exit 1", messages), timeout_s=10)
    assert caught.value.detail.endswith("the end")
    assert len(str(caught.value)) < 5000


def test_waiting_twice(messages: Path) -> None:
    """The exit status can be asked for again, by any thread."""
    running = Running(shell("exit 7", messages))
    assert (running.wait(), running.wait(), running.wait(0)) == (7, 7, 7)
    running.end()
