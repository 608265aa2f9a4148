"""When schedules run, for any time at all."""

from datetime import UTC, datetime, timedelta

import hypothesis.strategies as st
from hypothesis import given

from snaphold.model import DAY_US, next_run_us

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
moments = st.integers(min_value=0, max_value=4_000_000_000_000_000)
hours = st.integers(min_value=0, max_value=23)
minutes = st.integers(min_value=0, max_value=59)


def as_datetime(time_us: int) -> datetime:
    """The same moment as the standard library has it."""
    return EPOCH + timedelta(microseconds=time_us)


@given(after_us=moments, hour=hours, minute=minutes)
def test_the_next_run_is_the_first_of_its_time_of_day(after_us: int, hour: int, minute: int) -> None:
    """It is later than the moment asked about, by at most a day, at exactly this time of day."""
    following = next_run_us(after_us, hour, minute)
    assert 0 < following - after_us <= DAY_US
    time = as_datetime(following)
    assert (time.hour, time.minute, time.second, time.microsecond) == (hour, minute, 0, 0)


@given(after_us=moments, hour=hours, minute=minutes)
def test_runs_are_a_day_apart(after_us: int, hour: int, minute: int) -> None:
    """The run after a run is the same time of day, one day on: none is left out, none comes twice."""
    following = next_run_us(after_us, hour, minute)
    assert next_run_us(following, hour, minute) - following == DAY_US
    assert next_run_us(following - 1, hour, minute) == following
