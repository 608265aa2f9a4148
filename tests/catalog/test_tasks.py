"""What is looked through every few seconds stays small, however much has been done."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import event, exc

from snaphold.catalog import schema, tasks
from snaphold.catalog.database import Transaction
from snaphold.model import DAY_US
from snaphold.protocol import Task
from snaphold.service.backups import request_backup
from snaphold.service.instances import create_instance
from snaphold.service.outcomes import forget_ended_tasks, reap
from tests.support.region import Region, a_backup, an_instance, open_region


@pytest.fixture
def region(tmp_path: Path) -> Iterator[Region]:
    """A region with one host that is there."""
    region = open_region(tmp_path)
    yield region
    region.deployment.catalog.close()


def test_what_ended_is_not_looked_through(region: Region) -> None:
    """The search for silent hosts reads the tasks that are open, by their index."""
    asked: list[tuple[str, tuple[object, ...]]] = []
    engine = region.deployment.catalog.engine
    event.listen(engine, "before_cursor_execute", lambda *facts: asked.append((facts[2], facts[3])))
    reap(region.deployment)
    statement, values = next(each for each in asked if "FROM tasks" in each[0])
    with engine.connect() as connection:
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values).all()
    (tasks_read,) = [row[-1] for row in plan if " tasks" in row[-1]]
    assert tasks_read.endswith("USING INDEX ix_tasks_open")


def test_a_long_backlog_is_looked_through_once(region: Region) -> None:
    """The choice of the next task takes a few steps of the database for each one that waits; a poll takes no more."""
    count = 2_000
    task = {"kind": "verify", "attempt": 0, "host_id": region.host_id, "payload": {}, "created_us": 1}
    waiting = [
        task | {"id": f"w{n}", "account": f"a{n % 10}", "state": "waiting", "reported": False} for n in range(count)
    ]
    ended = [
        task | {"id": f"e{n}", "account": f"a{n % 10}", "state": "ended", "reported": True, "ended_us": n}
        for n in range(count)
    ]
    with region.deployment.catalog.writing() as tx:
        tx.connection.execute(schema.tasks.insert(), waiting)
        tx.connection.execute(schema.tasks.insert(), ended)
    with region.deployment.catalog.reading() as tx:
        choosing = steps_of(tx, lambda: tasks.next_waiting(tx, region.host_id, None))
        polling = steps_of(tx, lambda: tasks.any_waiting(tx, region.host_id))
    assert choosing / count < 25
    assert polling < 100


def test_what_ended_is_forgotten_after_a_week(region: Region) -> None:
    """Until then a report may come again; what is open stays, however old."""
    region.active_instance()
    region.completed_backup(region.active_instance())
    with region.deployment.catalog.writing() as tx:
        (ended, *_) = tx.connection.execute(sa.select(schema.tasks.c.id)).scalars()
    forget_ended_tasks(region.deployment)
    assert is_known(region, ended)
    region.clock.advance(8 * DAY_US / 1_000_000)
    region.hello()
    waiting = region.completed_backup(region.active_instance()).id
    forget_ended_tasks(region.deployment)
    assert not is_known(region, ended)
    with region.deployment.catalog.reading() as tx:
        kept = tx.connection.execute(sa.select(schema.tasks.c.backup_id)).scalars().all()
    assert waiting in kept


def test_slots_are_shared_fairly(region: Region) -> None:
    """One account's backlog holds up no other: turns go round, backups come first, the last slot is kept for others."""
    theirs, mine = region.active_instance("a"), region.active_instance("b")
    backup = region.completed_backup(theirs)
    for _ in range(24):
        create_instance(region.deployment, "a", an_instance(backup_ref=backup.id))
    request_backup(region.deployment, "a", a_backup(theirs.id))
    begun = [region.claim(free_slots) for free_slots in (4, 3, 2, 1)]
    assert kinds_of(begun) == ["backup", "restore", "restore", None]
    request_backup(region.deployment, "b", a_backup(mine.id))
    assert kinds_of([region.claim(1)]) == ["backup"]
    assert begun[0] is not None
    region.report(begun[0])
    assert kinds_of([region.claim(1)]) == [None]


def test_turns_go_round_where_there_is_one_slot(region: Region) -> None:
    """With one slot the account comes next that was served longest ago, however many tasks another one has waiting."""
    for account in "abaabb":
        create_instance(region.deployment, account, an_instance())
    served = []
    while (task := region.claim(1)) is not None:
        assert task.instance is not None
        served.append(task.instance.account)
        region.report(task)
    assert served == list("ababab")


def test_an_account_alone_has_every_slot(region: Region) -> None:
    """No slot is kept where nobody else could want it, nor from what is short."""
    backup = region.completed_backup(region.active_instance("a"))
    for _ in range(2):
        create_instance(region.deployment, "a", an_instance(backup_ref=backup.id))
    assert kinds_of([region.claim(2), region.claim(1)]) == ["restore", "restore"]
    region.hello()
    other = region.active_instance("b")
    assert other.status == "ACTIVE"
    create_instance(region.deployment, "a", an_instance(backup_ref=backup.id))
    create_instance(region.deployment, "a", an_instance())
    assert kinds_of([region.claim(2), region.claim(1)]) == ["create", None]


def test_an_error_hides_the_values(region: Region) -> None:
    """What the database refuses is logged with its statement, and never with values, which may be hashes of secrets."""
    row = {"id": "h", "name": "host", "token_sha256": "canary", "datastores": [], "created_us": 0}
    row |= {"shared_system_user": False, "accepts_shared": False}
    with pytest.raises(exc.IntegrityError) as refused, region.deployment.catalog.writing() as tx:
        tx.connection.execute(schema.hosts.insert().values(row))
    assert "canary" not in str(refused.value)


def steps_of(tx: Transaction, ask: Callable[[], object]) -> int:
    """How many instructions of its virtual machine SQLite runs for this."""
    count = 0

    def step() -> None:
        nonlocal count
        count += 1

    connection = tx.connection.connection.driver_connection
    assert connection is not None
    connection.set_progress_handler(step, 1)
    ask()
    connection.set_progress_handler(None, 0)
    return count


def is_known(region: Region, task_id: str) -> bool:
    """Whether there is such a task in the catalog."""
    with region.deployment.catalog.reading() as tx:
        return tasks.is_known(tx, task_id)


def kinds_of(tasks: Sequence[Task | None]) -> list[str | None]:
    """What was claimed, in order."""
    return [None if task is None else task.kind.value for task in tasks]
