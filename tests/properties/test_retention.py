"""What retention removes, of any forest of backups that schedules and people have made of one source."""

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import hypothesis.strategies as st
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings

from snaphold.catalog import backups
from snaphold.catalog.schema import backups as table
from snaphold.model import Backup, BackupStatus, Origin, Schedule
from snaphold.service.schedules import expire_fulls, retention
from tests.support.region import ACCOUNT, Region, open_region

KEPT: Final = 2


@dataclass(frozen=True)
class Node:
    """A backup: ``parent`` counts back from it among those before, 0: none."""

    parent: int
    automated: bool
    status: BackupStatus
    deleting: bool


nodes = st.builds(
    Node,
    parent=st.integers(0, 4),
    automated=st.integers(0, 3).map(bool),
    status=st.sampled_from([*[BackupStatus.COMPLETED] * 5, BackupStatus.FAILED, BackupStatus.DELETE_FAILED]),
    deleting=st.integers(0, 9).map(lambda number: not number),
)


@pytest.fixture(scope="module")
def region(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Region]:
    """A region; each example has a source of its own."""
    region = open_region(tmp_path_factory.mktemp("retention"))
    yield region
    region.deployment.catalog.close()


def forest(planned: Sequence[Node]) -> list[Backup]:
    """Backups of a new source, oldest first."""
    source, made = str(uuid.uuid4()), list[Backup]()
    for number, node in enumerate(planned):
        parent = made[-node.parent] if 0 < node.parent <= number else None
        made.append(
            Backup(
                id=str(uuid.uuid4()),
                account=ACCOUNT,
                name="b",
                description=None,
                status=node.status,
                deleting=node.deleting,
                instance_id=source,
                source_type="instance",
                source_id=source,
                parent_id=None if parent is None else parent.id,
                datastore="mariadb",
                version="10.11",
                flavor_ram_mb=512,
                volume_gb=2,
                is_automated=node.automated,
                made=Origin.TAKEN,
                manifest_sha256="0" * 64,
                reason="it failed",
                created_us=1_000 + number,
                updated_us=1_000 + number,
            )
        )
    return made


@given(planned=st.lists(nodes, max_size=20))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_people_have_made_stays(region: Region, planned: list[Node]) -> None:
    """Neither a person's backup nor what it depends on goes; every other full that is too many does, with its own."""
    made = forest(planned)
    parents = {one.id: one.parent_id for one in made}
    with region.deployment.catalog.writing() as tx:
        for one in made:
            assert backups.insert(tx, one)
    if not made:
        return
    wanted = {one.id for one in made if not one.is_automated and one.status == "COMPLETED" and not one.deleting}
    needed = {below for one in wanted for below in line(one, parents)}
    counted = [
        one.id
        for one in made
        if one.is_automated and one.parent_id is None and one.status == "COMPLETED" and not one.deleting
    ]
    excess = counted[:-KEPT]
    schedule = a_schedule(made[0].source_id)
    expired = [full.id for full in expire_fulls(region.deployment, schedule)]
    with region.deployment.catalog.reading() as tx:
        still = sa.select(table.c.id).where(table.c.source_id == made[0].source_id, ~table.c.deleting)
        left = set(tx.connection.execute(still).scalars())
        waiting = [full.backup_id for full in retention(tx, schedule).waiting]
    assert needed <= left | {one.id for one in made if one.deleting}
    assert expired == [full for full in excess if full not in needed]
    assert waiting == [full for full in excess if full in needed]
    assert left == {one.id for one in made if not one.deleting and not line(one.id, parents) & set(expired)}


def line(backup_id: str, parents: dict[str, str | None]) -> set[str]:
    """A backup and all that it depends on."""
    found = {backup_id}
    while (parent := parents[backup_id]) is not None:
        found.add(parent)
        backup_id = parent
    return found


def a_schedule(source_id: str) -> Schedule:
    """One that keeps two fulls, and that nobody has changed since the first."""
    return Schedule(
        id="s",
        account=ACCOUNT,
        source_type="instance",
        source_id=source_id,
        day_of_week=7,
        hour=2,
        minute=0,
        full_backup_retention=KEPT,
        copy_to=None,
        asked_by=None,
        next_run_us=0,
        last_run_us=None,
        created_us=0,
        updated_us=0,
        deleted_us=None,
    )
