import pytest

from snaphold.worker.worker import Moment, hosts_could_renew


@pytest.mark.parametrize(
    ("wall_s", "passed_s", "expected"),
    [
        (2.0, 2.0, True),
        (2.3, 2.1, True),
        (1.0, 2.0, True),  # put back a little: leases only last longer
        (3602.0, 2.0, False),  # the clock was put forward
        (60.0, 60.0, False),  # we were stopped for a minute
    ],
)
def test_leases_are_judged_only_when_hosts_could_renew_them(wall_s: float, passed_s: float, expected: bool) -> None:  # noqa: FBT001 - a parameter of the table
    """After a stop of this process or a jump of the clock, a lease that ran out says nothing about its host."""
    before = Moment(1000.0, 50.0)
    assert hosts_could_renew(before, Moment(1000.0 + wall_s, 50.0 + passed_s), 2.0) is expected
