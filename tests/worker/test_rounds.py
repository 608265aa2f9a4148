import subprocess
import sys
import threading
from pathlib import Path

import pytest

from snaphold.errors import Transient
from snaphold.worker.worker import Moment, hosts_could_renew, in_rounds

# The worker in a process of its own, for its queue is one a process; it ends with the status of the backup.
WORKER = """
import sys, threading
from pathlib import Path
from snaphold.catalog.identity_db import open_identity_database
from snaphold.service.backups import request_backup, show_backup
from snaphold.worker.state_backup import Saver
from snaphold.worker.worker import run_worker
from tests.fakes.memory_store import MemoryStores
from tests.scenarios.served import eventually
from tests.support.region import ACCOUNT, a_backup, open_region

class Silent(MemoryStores):
    def accounts(self):
        asked.set()
        threading.Event().wait()

def look():
    assert asked.wait(30)
    region.clock.advance(60)
    eventually(lambda: show_backup(region.deployment, ACCOUNT, backup.id).status == "FAILED", "the end", 30)
    stop.set()

directory, asked, stop = Path(sys.argv[1]), threading.Event(), threading.Event()
region, stores = open_region(directory, lease_s=0.2, renew_s=0.1), Silent()
backup = request_backup(region.deployment, ACCOUNT, a_backup(region.active_instance().id))
assert region.claim()
identity = open_identity_database(directory / "identity.db")
saver = Saver(
    catalog=region.deployment.catalog, identity=identity, stores=stores, region="DFW",
    deployment_id=region.deployment.deployment_id, keep=1, interval_s=0,
)
looking = threading.Thread(target=look)
looking.start()
run_worker(region.deployment, stores, saver, directory / "lock", stop, peers={})
looking.join()
print(show_backup(region.deployment, ACCOUNT, backup.id).status)
"""


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


SCHEDULES = """
import sys, threading
from pathlib import Path
from snaphold.catalog.identity_db import open_identity_database
from snaphold.service.backups import list_backups
from snaphold.service.requests import PageRequest, ScheduleChangeRequest, ScheduleRequest
from snaphold.service.schedules import change_schedule, create_schedule
from snaphold.worker.state_backup import Saver
from snaphold.worker.worker import run_worker
from tests.fakes.memory_store import MemoryStores
from tests.scenarios.served import eventually
from tests.support.region import ACCOUNT, open_region

def look():
    page = PageRequest(limit=1, marker=None)
    eventually(lambda: list_backups(region.deployment, ACCOUNT, page).backups, "the run", 30)
    stop.set()

directory, stop = Path(sys.argv[1]), threading.Event()
region = open_region(directory, lease_s=300)
request = ScheduleRequest(
    source_type="instance", source_id=region.active_instance().id, day_of_week=7, hour=2, minute=0,
    full_backup_retention=2, copy_to=None,
)
schedule = create_schedule(region.deployment, ACCOUNT, request)
now = ScheduleChangeRequest(
    source_id=None, day_of_week=None, hour=None, minute=None, full_backup_retention=None, copy_to=None, run_now=True
)
change_schedule(region.deployment, ACCOUNT, schedule.id, now)
saver = Saver(
    catalog=region.deployment.catalog, identity=open_identity_database(directory / "identity.db"),
    stores=MemoryStores(), region="DFW", deployment_id=region.deployment.deployment_id, keep=1, interval_s=0,
)
looking = threading.Thread(target=look)
looking.start()
run_worker(region.deployment, MemoryStores(), saver, directory / "lock", stop, peers={})
looking.join()
"""


def test_a_run_that_is_due_begins_at_once(tmp_path: Path) -> None:
    """A worker that has just started runs what is due, although it judges no lease before a lease's time."""
    argv = [sys.executable, "-c", SCHEDULES, str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_a_silent_store_keeps_no_silent_host(tmp_path: Path) -> None:
    """While a store does not answer what looks into it, a host that is silent has its work abandoned all the same."""
    argv = [sys.executable, "-c", WORKER, str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.split()[-1:]) == (0, ["FAILED"]), done.stderr


@pytest.mark.parametrize("error", [Transient("silent"), RuntimeError("unforeseen")], ids=repr)
def test_a_fault_in_a_round_ends_no_rounds(error: Exception) -> None:
    """Whatever goes wrong in a step, those behind it are done, and all of them again in the next round."""
    stop, done = threading.Event(), list[str]()

    def failing() -> None:
        done.append("failing")
        raise error

    def counting() -> None:
        done.append("counting")
        if len(done) >= 6:
            stop.set()

    in_rounds({"failing": failing, "counting": counting}, 0, 0, stop)
    assert done == ["failing", "counting"] * 3
