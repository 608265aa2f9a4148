"""Giving way: rates that are kept, and priorities that tools inherit."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snaphold.stream.priority import Priority, Throttle

RATE = 1000.0  # bytes a second


@given(steps=st.lists(st.tuples(st.integers(1, 500), st.floats(0, 2)), min_size=1, max_size=50))
def test_no_stretch_is_faster_than_the_rate(steps: list[tuple[int, float]]) -> None:
    """Over any stretch of time no more bytes pass than the rate allows, and a quarter of a second's."""
    clock = 0.0
    throttle = Throttle(RATE, lambda: clock)
    passed: list[tuple[float, int]] = []
    for count, idle_s in steps:
        clock += idle_s
        passed.append((clock, count))
        clock += throttle.pause_s(count)
        for start, _ in passed:
            assert sum(size for at, size in passed if at >= start) <= (clock - start) * RATE + 0.25 * RATE + 1e-6


def test_a_stream_that_never_waits_takes_its_time() -> None:
    """A stream that is faster than it may be passes at the rate, to the last byte."""
    clock = 0.0
    throttle = Throttle(RATE, lambda: clock)
    for _ in range(100):
        clock += throttle.pause_s(100)
    assert clock == pytest.approx(10.0)


def test_no_limit_is_no_pause() -> None:
    """0 means that nothing waits."""
    assert Throttle(0).pause_s(1 << 40) == 0


@pytest.mark.parametrize(("io_priority", "said"), [("normal", "none: prio 0"), ("idle", "idle")])
def test_priorities_are_inherited(io_priority: str, said: str) -> None:
    """A process that such a thread starts has the thread's niceness and disk priority; other threads keep theirs."""
    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    priority = Priority(niceness=12, io_priority=io_priority)  # type: ignore[arg-type]
    with ThreadPoolExecutor(1, initializer=priority.show) as one:
        ask = "import os; print(os.getpriority(os.PRIO_PROCESS, 0))"
        nice = one.submit(subprocess.check_output, [sys.executable, "-c", ask]).result()
        disk = one.submit(subprocess.check_output, ["ionice"]).result()
    assert int(nice) == max(12, os.getpriority(os.PRIO_PROCESS, 0))
    assert disk.decode().startswith(said)
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before
