"""What is asked of the catalog reads the rows that it is about, however many backups there are."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import event

from snaphold.catalog import backups
from snaphold.catalog.database import Transaction
from snaphold.model import VerificationLevel
from tests.support.region import ACCOUNT, Region, open_region


@pytest.fixture
def region(tmp_path: Path) -> Iterator[Region]:
    """A region with one host that is there."""
    region = open_region(tmp_path)
    yield region
    region.deployment.catalog.close()


def paged(**only: str) -> Callable[[Transaction], object]:
    """A page of a list."""
    return lambda tx: backups.page(tx, ACCOUNT, limit=20, marker=None, **only)


@pytest.mark.parametrize(
    ("ask", "index"),
    [
        (paged(), "ix_backups_account_created_us_id (account=?)"),
        (paged(instance_id="i"), "ix_backups_account_instance_id_created_us_id (account=? AND instance_id=?)"),
        (paged(datastore="mysql"), "ix_backups_account_datastore_created_us_id (account=? AND datastore=?)"),
        (lambda tx: backups.running_of_account(tx, ACCOUNT), "ix_backups_running (account=?)"),
        (lambda tx: backups.newest_completed(tx, "i"), "ix_backups_source_id_created_us_id (source_id=?)"),
        (lambda tx: backups.failed_since(tx, 0, 1), "ix_backups_failed (updated_us>? AND updated_us<?)"),
        (backups.to_delete, "ix_backups_deleting"),
        (lambda tx: backups.being_verified(tx, VerificationLevel.OBJECTS), "ix_backups_proving (proving=?)"),
        (backups.unknown_verifications, "ix_backups_to_prove (proof_asked_us>?)"),
    ],
)
def test_plans(region: Region, ask: Callable[[Transaction], object], index: str) -> None:
    """Each has an index that leads to just these rows, in the order in which they are wanted."""
    asked: list[tuple[str, tuple[object, ...]]] = []
    engine = region.deployment.catalog.engine
    with region.deployment.catalog.reading() as tx:
        event.listen(engine, "before_cursor_execute", lambda *facts: asked.append((facts[2], facts[3])))
        ask(tx)
        statement, values = next(each for each in asked if "FROM backups" in each[0])
        plan = [row[-1] for row in tx.connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)]
    assert len(plan) == 1
    assert plan[0].split("INDEX ")[1] == index
