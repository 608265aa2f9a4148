"""When schedules run, for any time at all."""

from datetime import UTC, datetime, timedelta

import hypothesis.strategies as st
from hypothesis import given

from snaphold.model import DAY_US, Schedule, next_run_us, runs_full

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


@given(now_us=moments, age_us=st.integers(min_value=0, max_value=10 * DAY_US), day=st.integers(0, 6), hour=hours)
def test_a_run_is_full_when_a_weekly_moment_has_come_since_the_newest(
    now_us: int, age_us: int, day: int, hour: int
) -> None:
    """The weekly moments are those that the standard library's calendar says."""
    now, newest = as_datetime(now_us), as_datetime(now_us - age_us)
    moment = now.replace(hour=hour, minute=0, second=0, microsecond=0)
    while moment > now or moment.isoweekday() % 7 != day:
        moment -= timedelta(days=1)
    schedule = a_schedule(day, hour)
    assert runs_full(schedule, now_us - age_us, now_us) == (newest < moment)
    assert runs_full(schedule, None, now_us)
    assert runs_full(a_schedule(7, hour), now_us, now_us)


def a_schedule(day_of_week: int, hour: int) -> Schedule:
    """One with this time for its fulls."""
    return Schedule(
        id="s",
        account="a",
        source_type="instance",
        source_id="i",
        day_of_week=day_of_week,
        hour=hour,
        minute=0,
        full_backup_retention=2,
        copy_to=None,
        asked_by=None,
        next_run_us=0,
        last_run_us=None,
        created_us=0,
        updated_us=0,
        deleted_us=None,
    )
