import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from snaphold.catalog import backups as rows
from snaphold.catalog import copies as copy_rows
from snaphold.catalog import hosts
from snaphold.catalog.database import Transaction, open_catalog
from snaphold.errors import BadRequest, NotFound, OverLimit, Permanent, Transient, Unavailable, Unprocessable
from snaphold.formats.manifest import load
from snaphold.model import Backup, CopyStatus
from snaphold.protocol import PeerAnnouncement, PeerAnswer, PeerQuery, PeerRecord, PeerWithdrawal, PeerWithdrawn
from snaphold.queue import Queue
from snaphold.service.backups import delete_backup, list_backups, list_instance_backups, show_backup
from snaphold.service.copies import plan_copies, request_copy, retry_copies
from snaphold.service.deployment import Deployment
from snaphold.service.incoming_copies import answer_peer, expect_copy, record_copy, withdraw_copy
from snaphold.service.requests import CopyRequest, PageRequest
from snaphold.steps import Step, observers
from snaphold.stream.verification import verify_objects
from snaphold.worker.copying import Copier
from snaphold.worker.deletion import Remover
from tests.fakes.memory_store import Fault, MemoryStore, MemoryStores
from tests.support.manifests import PARTS, SEGMENT, a_backup_record, put_in_segments
from tests.support.region import ACCOUNT, OpenGate, Region, open_region

ALL = PageRequest(limit=100, marker=None)


class Killed(BaseException):
    """The process ends here."""


class Neighbour:
    """The other region's service itself, as its API would call it. ``silent``: it does not answer.

    ``loses``: it records, and its answer is lost.
    """

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.silent = False
        self.loses = False

    def copies(self, question: PeerQuery) -> PeerAnswer:
        """Which of these are there."""
        self._answers()
        return answer_peer(self.deployment, question)

    def announce(self, message: PeerAnnouncement) -> None:
        """Expect a copy."""
        self._answers()
        expect_copy(self.deployment, message)

    def withdraw(self, message: PeerWithdrawal) -> PeerWithdrawn:
        """Give a copy up."""
        self._answers()
        return withdraw_copy(self.deployment, message)

    def record(self, message: PeerRecord) -> None:
        """Record a copy."""
        self._answers()
        record_copy(self.deployment, message)
        if self.loses:
            raise Unavailable("Region IAD does not answer.")

    def _answers(self) -> None:
        if self.silent:
            raise Unavailable("Region IAD does not answer.")


@dataclass
class Pair:
    """DFW with the means to copy, and IAD."""

    region: Region
    there: Deployment
    neighbour: Neighbour
    source: MemoryStore
    target: MemoryStore
    copier: Callable[[], Copier]
    remover: Remover

    def keep(self, number: int, parent: Backup | None = None) -> Backup:
        """A COMPLETED backup in DFW, of three segments."""
        deployment = self.region.deployment
        record = replace(a_backup_record(number, parent), object_bytes=len(PARTS))
        backup = put_in_segments(self.source, record, deployment.deployment_id, parent)
        with deployment.catalog.writing() as tx:
            assert rows.insert(tx, backup)
        return backup

    def ask(self, backup: Backup, name: str | None = None) -> None:
        """Have it copied to IAD."""
        request_copy(self.region.deployment, ACCOUNT, backup.id, CopyRequest(region="IAD", name=name))

    def work(self) -> None:
        """The worker makes every copy that is asked for, and the other region's removes what was abandoned."""
        with self.region.deployment.catalog.reading() as tx:
            asked = [copy for backup in rows_of(tx) for copy in copy_rows.open_of(tx, backup)]
        for copy_id in asked:
            self.copier().copy(copy_id)
        self.remover.sweep_incoming_copies(0)

    def limit(self, backups: int) -> None:
        """IAD lets the account have so many backups."""
        settings = self.there.settings.model_copy(update={"max_backups_per_account": backups})
        self.there = replace(self.there, settings=settings)
        self.neighbour.deployment = self.there

    def in_iad(self) -> Sequence[Backup]:
        """What IAD lists."""
        return list_backups(self.there, ACCOUNT, ALL).backups

    def copies(self, backup: Backup) -> list[tuple[str, str | None]]:
        """Status and reason of each copy, as DFW shows them."""
        shown = show_backup(self.region.deployment, ACCOUNT, backup.id)
        return [(copy.status, copy.reason) for copy in shown.copies]


def rows_of(tx: Transaction) -> list[str]:
    """Ids of all backups of the account."""
    found = rows.page(tx, ACCOUNT, limit=100, marker=None)
    assert found is not None
    return [backup.id for backup in found[0]]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """Two regions."""
    with opened_pair(tmp_path) as pair:
        yield pair


@contextmanager
def opened_pair(tmp_path: Path, *, rate_factor: float = 0, backup_actions_per_minute: int = 20) -> Iterator[Pair]:
    """Two regions, each with a catalog and a store of its own."""
    (tmp_path / "iad").mkdir()
    region = open_region(tmp_path, rate_factor=rate_factor, backup_actions_per_minute=backup_actions_per_minute)
    catalog = open_catalog(tmp_path / "iad" / "catalog.db", region.clock)
    with catalog.writing() as tx:
        deployment_id = hosts.deployment_id(tx, "IAD")
    there = Deployment(
        catalog=catalog,
        queue=Queue(catalog),
        settings=region.deployment.settings,
        region="IAD",
        deployment_id=deployment_id,
        store_gate=OpenGate(),
    )
    neighbour = Neighbour(there)
    region.deployment = replace(region.deployment, peers={"IAD": neighbour})
    here, away = MemoryStores(), MemoryStores()

    def copier() -> Copier:
        return Copier(region.deployment, here, {"IAD": away}, threading.Event())

    yield Pair(
        region=region,
        there=there,
        neighbour=neighbour,
        source=here.of(ACCOUNT),
        target=away.of(ACCOUNT),
        copier=copier,
        remover=Remover(catalog, away, deployment_id),
    )
    catalog.close()
    region.deployment.catalog.close()


def test_a_copy_is_a_backup_of_its_own(pair: Pair) -> None:
    """It has an id and a name of its own and the same source, and its objects are verified by its own manifest."""
    backup = pair.keep(1)
    pair.ask(backup)
    assert pair.in_iad() == []
    pair.work()
    (copy,) = pair.in_iad()
    assert (copy.name, copy.source_id, copy.size_bytes) == ("backup 1-copy", backup.source_id, backup.size_bytes)
    assert (copy.made_from, copy.made_from_region, copy.parent_id) == (backup.id, "DFW", None)
    assert copy.id != backup.id
    manifest = verify_objects(pair.target, copy.id, str(copy.manifest_sha256))
    assert (manifest.deployment, manifest.made) == (pair.there.deployment_id, "copied")
    assert set(pair.target.objects) == {f"{copy.id}.{end}" for end in ("json", "index", "xbstream.gz")}
    assert pair.copies(backup) == [(CopyStatus.COMPLETED, None)]


def test_the_copy_of_an_increment_hangs_under_the_copy_of_its_parent(pair: Pair) -> None:
    """Before its parent is there it is refused; then its lineage leads to the parent's copy, by hash."""
    full = pair.keep(1)
    increment = pair.keep(2, full)
    with pytest.raises(BadRequest, match="parent"):
        pair.ask(increment)
    pair.ask(full)
    pair.work()
    pair.ask(increment, "c")
    pair.work()
    child, parent = sorted(pair.in_iad(), key=lambda copy: copy.parent_id is None)
    assert (child.name, child.parent_id) == ("c", parent.id)
    name = f"{child.id}.json"
    manifest = load(pair.target.objects[name], name=name, sha256=str(child.manifest_sha256))
    assert manifest.lineage.parent_manifest_sha256 == parent.manifest_sha256


def test_a_copy_that_is_there_or_on_its_way_is_not_made_twice(pair: Pair) -> None:
    """422 while it is on its way, and 422 once it is there; when it was deleted there, it may be made again."""
    backup = pair.keep(1)
    pair.ask(backup)
    with pytest.raises(Unprocessable, match="is being copied"):
        pair.ask(backup)
    pair.work()
    with pytest.raises(Unprocessable, match="already"):
        pair.ask(backup)
    (copy,) = pair.in_iad()
    delete_backup(pair.there, ACCOUNT, copy.id)
    pair.ask(backup)


def test_a_backup_that_is_being_copied_is_in_use(pair: Pair) -> None:
    """It cannot be deleted meanwhile; afterwards it can, and the copy stays."""
    backup = pair.keep(1)
    pair.ask(backup)
    with pytest.raises(Unprocessable, match="is in use"):
        delete_backup(pair.region.deployment, ACCOUNT, backup.id)
    pair.work()
    delete_backup(pair.region.deployment, ACCOUNT, backup.id)
    assert len(pair.in_iad()) == 1


def test_a_silent_peer_is_503_when_asked_and_waited_for_later(pair: Pair) -> None:
    """The request is refused while the peer is silent; a copy that was accepted is tried again, and ends once."""
    backup = pair.keep(1)
    pair.neighbour.silent = True
    with pytest.raises(Unavailable):
        pair.ask(backup)
    pair.neighbour.silent = False
    pair.ask(backup)
    pair.neighbour.silent = True
    pair.work()
    assert pair.copies(backup) == [(CopyStatus.COPYING, "Region IAD does not answer.")]
    pair.neighbour.silent = False
    pair.region.clock.advance(6)
    retry_copies(pair.region.deployment)
    assert pair.region.enqueued()[-1][0] == "copy_backup"
    pair.work()
    assert pair.copies(backup) == [(CopyStatus.COMPLETED, None)]


def test_a_copy_fails_alone(pair: Pair) -> None:
    """Damage is found before the segment counts; the copy says why, nothing is left there, the backup is as it was."""
    backup = pair.keep(1)
    pair.ask(backup)
    pair.source.objects[str(backup.object_name)] = PARTS[:-1] + b"?"
    pair.work()
    ((status, reason),) = pair.copies(backup)
    assert status is CopyStatus.FAILED
    assert reason == f"segment 2 of {backup.object_name} differs from what was written"
    assert pair.target.objects == {}
    assert show_backup(pair.region.deployment, ACCOUNT, backup.id).status == "COMPLETED"


@pytest.mark.parametrize("error", [Transient("the store is silent"), Permanent("the store refuses")])
def test_a_store_that_fails_there(pair: Pair, error: Exception) -> None:
    """A silent one is tried again; one that refuses ends the copy with its words."""
    backup = pair.keep(1)
    pair.ask(backup)
    pair.target.faults.append(Fault("put_segment", error))
    pair.work()
    status = CopyStatus.COPYING if isinstance(error, Transient) else CopyStatus.FAILED
    assert pair.copies(backup) == [(status, str(error))]
    assert pair.in_iad() == []


@pytest.mark.parametrize("step", [step for step in Step if step.startswith("copy.")])
def test_a_copy_goes_on_where_it_was_cut_short(pair: Pair, step: Step) -> None:
    """Ended at any step, the next worker ends it: one copy, whole, no segment put twice, nothing else left."""
    backup = pair.keep(1)
    pair.ask(backup)

    def kill(at: Step) -> None:
        if at is step:
            raise Killed

    observers.append(kill)
    try:
        with pytest.raises(Killed):
            pair.work()
    finally:
        observers.remove(kill)
    assert len(pair.in_iad()) == (step in {Step.COPY_RECORDED, Step.COPY_ENDED})
    pair.work()
    (copy,) = pair.in_iad()
    verify_objects(pair.target, copy.id, str(copy.manifest_sha256))
    assert set(pair.target.objects) == {f"{copy.id}.{end}" for end in ("json", "index", "xbstream.gz")}
    assert pair.target.calls["put_segment"] == 3
    assert pair.copies(backup) == [(CopyStatus.COMPLETED, None)]


def test_a_segment_that_was_damaged_meanwhile_is_put_again(pair: Pair) -> None:
    """What an earlier try has put is used only when its hash is right."""
    backup = pair.keep(1)
    pair.ask(backup)

    def kill(at: Step) -> None:
        if at is Step.COPY_SEGMENTS_WRITTEN:
            raise Killed

    observers.append(kill)
    try:
        with pytest.raises(Killed):
            pair.work()
    finally:
        observers.remove(kill)
    damaged = min(pair.target.objects)
    pair.target.objects[damaged] = b"?" * SEGMENT
    pair.work()
    (copy,) = pair.in_iad()
    verify_objects(pair.target, copy.id, str(copy.manifest_sha256))
    assert pair.target.calls["put_segment"] == 4


def test_a_scheduled_copy_brings_what_it_stands_on(pair: Pair) -> None:
    """Ancestors that are missing there are copied first, the oldest first."""
    full = pair.keep(1)
    middle = pair.keep(2, full)
    newest = pair.keep(3, middle)
    with pair.region.deployment.catalog.writing() as tx:
        plan_copies(tx, newest, ["IAD"], asked_by="demo", with_ancestors=True)
    pair.work()
    there = {copy.made_from: copy for copy in pair.in_iad()}
    assert set(there) == {full.id, middle.id, newest.id}
    assert there[newest.id].parent_id == there[middle.id].id
    assert there[middle.id].parent_id == there[full.id].id


@pytest.mark.parametrize("recorded", [True, False])
def test_the_last_try(pair: Pair, *, recorded: bool) -> None:
    """Tries are bounded: then it has failed, and says why; unless the copy is there and only the answer was lost."""
    backup = pair.keep(1)
    pair.ask(backup)
    with pair.region.deployment.catalog.writing() as tx:
        (copy_id,) = copy_rows.open_of(tx, backup.id)
        copy_rows.change(tx, copy_id, tries=18)
    pair.neighbour.loses = recorded
    pair.neighbour.silent = not recorded
    pair.work()
    failed = (CopyStatus.FAILED, "Region IAD does not answer.")
    assert pair.copies(backup) == [(CopyStatus.COMPLETED, None) if recorded else failed]
    assert len(pair.in_iad()) == recorded


def test_what_came_of_a_copy_is_given_up_after_a_week(pair: Pair) -> None:
    """A region whose peer never comes back gives the copy up by itself: nothing is left, and nothing more may come."""
    backup = pair.keep(1)
    pair.ask(backup)
    pair.target.faults.append(Fault("publish"))
    pair.work()
    assert pair.target.objects != {}
    pair.region.clock.advance(8 * 24 * 3600)
    pair.remover.sweep_incoming_copies(60)
    assert pair.target.objects != {}
    pair.region.clock.advance(61)
    pair.neighbour.silent = True
    pair.remover.sweep_incoming_copies(60)
    assert pair.target.objects == {}


def test_a_copy_that_was_given_up_there_has_failed(pair: Pair) -> None:
    """Its objects may not come any more; the copy says so, and may be asked for anew."""
    backup = pair.keep(1)
    pair.ask(backup)
    pair.target.faults.append(Fault("publish"))
    pair.work()
    pair.region.clock.advance(8 * 24 * 3600)
    pair.remover.sweep_incoming_copies(60)
    pair.work()
    ((status, reason),) = pair.copies(backup)
    assert status is CopyStatus.FAILED
    assert "was given up" in (reason or "")
    pair.target.faults.clear()
    pair.ask(backup)
    pair.work()
    assert len(pair.in_iad()) == 1


def test_the_destinations_limit_holds(pair: Pair) -> None:
    """An account that has as many backups as it may there: 413 when asked, and the end of one that was accepted."""
    first, second = pair.keep(1), pair.keep(2)
    pair.limit(1)
    pair.ask(second)
    pair.ask(first)
    with pair.region.deployment.catalog.reading() as tx:
        (earlier,), (later,) = copy_rows.open_of(tx, second.id), copy_rows.open_of(tx, first.id)
    pair.copier().copy(earlier)
    pair.copier().copy(later)
    assert pair.copies(second) == [(CopyStatus.COMPLETED, None)]
    assert pair.copies(first) == [(CopyStatus.FAILED, "The account has 1 backups already, which is its limit.")]
    with pytest.raises(OverLimit, match="Region IAD refuses: The account has 1 backups"):
        pair.ask(first)
    with pytest.raises(Unprocessable, match="already"):
        pair.ask(second)


def test_requests_for_copies_are_limited_as_actions(tmp_path: Path) -> None:
    """One too many within a minute is 413, and nothing of it is kept."""
    with opened_pair(tmp_path, rate_factor=1, backup_actions_per_minute=1) as pair:
        first, second = pair.keep(1), pair.keep(2)
        pair.ask(first)
        with pytest.raises(OverLimit):
            pair.ask(second)
        assert pair.copies(second) == []


def test_the_backups_of_an_instance_that_never_was_here(pair: Pair) -> None:
    """Where a copy has arrived its source is known; to other accounts it is not."""
    backup = pair.keep(1)
    with pytest.raises(NotFound):
        list_instance_backups(pair.there, ACCOUNT, backup.source_id, ALL)
    pair.ask(backup)
    pair.work()
    listed = list_instance_backups(pair.there, ACCOUNT, backup.source_id, ALL).backups
    assert [copy.made_from for copy in listed] == [backup.id]
    with pytest.raises(NotFound):
        list_instance_backups(pair.there, "9999", backup.source_id, ALL)
