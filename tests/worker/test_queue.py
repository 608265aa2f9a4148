"""The queue with its real engine; each test runs a process of its own, for the engine is one a process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

WORKER = """
import os, sys, threading
from pathlib import Path
from snaphold.catalog.database import open_catalog
from snaphold.errors import SetupError, Unavailable
from snaphold.queue import Queue, QueueRunner

directory, mode = Path(sys.argv[1]), sys.argv[2]
catalog = open_catalog(directory / "catalog.db")
done = threading.Event()

def handler(backup_id):
    with (directory / "ran").open("a") as log:
        log.write(backup_id + "\\n")
    if mode == "die":
        os.kill(os.getpid(), 9)
    if mode == "silent" and (directory / "ran").read_text().count(backup_id) < 3:
        raise Unavailable("the catalog does not answer")
    done.set()

queue = Queue(catalog)
if mode in {"die", "silent"}:
    with catalog.writing() as tx:
        queue.enqueue(tx, "delete_backup", "the-id")
try:
    with QueueRunner(catalog, {"delete_backup": handler}, directory / "lock"):
        if mode == "hold":
            print("holding", flush=True)
            sys.stdin.read()
        else:
            assert done.wait(30), "nothing ran"
except SetupError as error:
    sys.exit(str(error))
"""


def run(directory: Path, mode: str) -> subprocess.CompletedProcess[str]:
    """A worker process, to its end."""
    return subprocess.run(
        [sys.executable, "-c", WORKER, str(directory), mode], capture_output=True, text=True, timeout=60, check=False
    )


def test_work_survives_the_death_of_its_worker(tmp_path: Path) -> None:
    """A worker that is killed in the middle of a handler leaves the work to the next one, which runs it again."""
    assert run(tmp_path, "die").returncode == -signal.SIGKILL
    second = run(tmp_path, "finish")
    assert second.returncode == 0, second.stderr
    assert (tmp_path / "ran").read_text().split() == ["the-id", "the-id"]


LANES = """
import sys, threading
from pathlib import Path
from snaphold.catalog.database import open_catalog
from snaphold.queue import Queue, QueueRunner

directory = Path(sys.argv[1])
catalog = open_catalog(directory / "catalog.db")
held, done = threading.Event(), threading.Event()
begun = threading.Semaphore(0)

def copy(copy_id):
    begun.release()
    assert held.wait(30)

queue = Queue(catalog)
with QueueRunner(catalog, {"copy_backup": copy, "delete_backup": lambda _: done.set()}, directory / "lock"):
    with catalog.writing() as tx:
        for number in range(8):
            queue.enqueue(tx, "copy_backup", str(number))
    assert begun.acquire(timeout=30)
    with catalog.writing() as tx:
        queue.enqueue(tx, "delete_backup", "the-id")
    assert done.wait(30), "the delete waits for copies"
    held.set()
"""


def test_copies_hold_nothing_else_up(tmp_path: Path) -> None:
    """However many copies are under way or wait, which may take hours: a delete is done meanwhile."""
    argv = [sys.executable, "-c", LANES, str(tmp_path)]
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr


def test_work_outlives_the_silence_of_the_catalog(tmp_path: Path) -> None:
    """What found the catalog silent is run again until it is not, in the same process."""
    done = run(tmp_path, "silent")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "ran").read_text().split() == ["the-id"] * 3


def test_a_second_worker_on_one_catalog_is_refused(tmp_path: Path) -> None:
    """Two runners of one catalog would run a step twice: the second one says so and ends."""
    argv = [sys.executable, "-c", WORKER, str(tmp_path), "hold"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "holding\n"
        second = run(tmp_path, "finish")
        assert second.returncode == 1
        assert "another worker is at work on this catalog" in second.stderr
        os.kill(first.pid, signal.SIGKILL)
