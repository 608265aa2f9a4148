"""How fast an attempt gets on."""

from structlog.testing import capture_logs

from snaphold.agent.progress_rate import ProgressRate


class Clock:
    """Seconds that the test lets pass."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        """Look at it."""
        return self.now_s


def test_the_rate_is_that_of_the_last_ten_seconds() -> None:
    """What was slow or fast before does not count; one look is too little to tell a rate from."""
    clock = Clock()
    progress_rate = ProgressRate(clock)
    progress_rate.expect(10_000)
    progress_rate.note(0)
    assert progress_rate.bytes_per_s is None
    done = 0
    for rate in (7, 100):
        for _ in range(15):
            clock.now_s += 1
            progress_rate.note(done := done + rate)
    assert progress_rate.bytes_per_s == 100


def test_looks_at_one_moment_tell_no_rate() -> None:
    """Two counts of the same instant are no rate."""
    progress_rate = ProgressRate(Clock())
    progress_rate.note(1)
    progress_rate.note(2)
    assert progress_rate.bytes_per_s is None


def test_a_new_step_begins_anew() -> None:
    """The rate of an earlier step says nothing of this one."""
    clock = Clock()
    progress_rate = ProgressRate(clock)
    progress_rate.note(0)
    clock.now_s += 1
    progress_rate.note(1000)
    progress_rate.expect(5)
    assert progress_rate.bytes_per_s is None


def test_a_long_step_is_logged_now_and_then() -> None:
    """A step says how far it is each half a minute, where it got on by then; a short one says nothing."""
    clock = Clock()
    progress_rate = ProgressRate(clock)
    with capture_logs() as logs:
        progress_rate.expect(1000)
        for done in range(0, 1001, 10):
            progress_rate.note(done)
        assert logs == []
        progress_rate.expect(1000)
        for done in range(0, 1001, 10):
            clock.now_s += 1
            progress_rate.note(done)
        for _ in range(100):
            clock.now_s += 1
            progress_rate.note(1000)
    assert [line["percent"] for line in logs] == [29, 59, 89, 100]
    assert logs[0]["expected_bytes"] == 1000


def test_a_long_step_that_hardly_gets_on_is_logged_too() -> None:
    """Ten minutes without a line are enough, though there is nothing new to say; each step has its own lines."""
    clock = Clock()
    progress_rate = ProgressRate(clock)
    with capture_logs() as logs:
        for _ in range(2):
            progress_rate.expect(1000)
            for _ in range(1210):
                clock.now_s += 1
                progress_rate.note(500)
    assert [line["percent"] for line in logs] == [50, 50, 50, 50]
    assert logs[0]["bytes_per_s"] == 0


def test_a_count_that_goes_back_is_no_rate() -> None:
    """What is begun anew within a step has no rate below nothing."""
    clock = Clock()
    progress_rate = ProgressRate(clock)
    progress_rate.note(1000)
    clock.now_s += 1
    progress_rate.note(10)
    assert progress_rate.bytes_per_s == 0


def test_more_than_was_expected() -> None:
    """What is done never passes its total, which is estimated anew: a source may grow while it is backed up."""
    progress_rate = ProgressRate(lambda: 0.0)
    progress_rate.note(5)
    expected = [progress_rate.expected_bytes]
    progress_rate.expect(100)
    for done in (100, 160, 170, 171):
        progress_rate.note(done)
        expected.append(progress_rate.expected_bytes)
    progress_rate.expect(50)
    assert [*expected, progress_rate.expected_bytes] == [None, 100, 170, 170, 182, 50]
