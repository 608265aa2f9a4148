"""Mending: what is damaged comes from the other region, either way, and nothing gets worse for it."""

import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace

import pytest

from snaphold.errors import NotFound, Transient, Unavailable, Unprocessable
from snaphold.model import Backup, VerificationLevel, VerificationStatus
from snaphold.service.backups import delete_backup, show_backup
from snaphold.service.deployment import Deployment
from snaphold.service.verification import request_repair, request_verification
from snaphold.steps import Step, observers
from snaphold.stream.verification import read_verification_record
from snaphold.worker.verification import Verifier
from tests.fakes.memory_store import Fault, MemoryStore, MemoryStores
from tests.support.manifests import SEGMENT
from tests.support.region import ACCOUNT
from tests.worker.test_copying import Killed, Neighbour, Pair, pair

__all__ = ["pair"]  # the fixture

Damage = Callable[[bytes], bytes | None]  # what is left of an object; None: nothing


def flipped(whole: bytes) -> bytes:
    """One bit in the middle differs."""
    middle = len(whole) // 2
    return whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]


DAMAGES: dict[str, tuple[str, Damage, int]] = {  # the object, and how many segments of it must be fetched
    "a bit of a segment": ("xbstream.gz", flipped, 1),
    "two segments": ("xbstream.gz", lambda whole: bytes(2 * SEGMENT) + whole[2 * SEGMENT :], 2),
    "the last segment": ("xbstream.gz", lambda whole: whole[:-1] + b"?", 1),
    "cut short": ("xbstream.gz", lambda whole: whole[: SEGMENT + 3], 2),
    "cut at a segment's end": ("xbstream.gz", lambda whole: whole[: 2 * SEGMENT], 1),
    "too long": ("xbstream.gz", lambda whole: whole + b"and more", 0),
    "empty": ("xbstream.gz", lambda _: b"", 3),
    "the data object": ("xbstream.gz", lambda _: None, 3),
    "a bit of the index": ("index", lambda _: b"the indey", 0),
    "the index": ("index", lambda _: None, 0),
    "a bit of the manifest": ("json", flipped, 0),
    "the manifest": ("json", lambda _: None, 0),
}


@dataclass
class Side:
    """One of the two regions, its backup, and what it takes to repair it."""

    deployment: Deployment
    store: MemoryStore
    other: MemoryStore
    backup: Backup
    verifier: Callable[[], Verifier]
    whole: dict[str, bytes]

    def damage(self, end: str, damage: Damage) -> None:
        """Damage one of the backup's objects."""
        left = damage(self.store.objects.pop(f"{self.backup.id}.{end}"))
        if left is not None:
            self.store.objects[f"{self.backup.id}.{end}"] = left

    def verify(self) -> Backup:
        """Have it verified; the backup afterwards."""
        request_verification(self.deployment, ACCOUNT, self.backup.id, VerificationLevel.OBJECTS)
        return self.work()

    def mend(self) -> Backup:
        """Have it repaired; the backup afterwards."""
        request_repair(self.deployment, ACCOUNT, self.backup.id)
        return self.work()

    def work(self) -> Backup:
        """The worker does what was asked for; the backup afterwards."""
        self.verifier().verify(self.backup.id)
        return show_backup(self.deployment, ACCOUNT, self.backup.id)

    @property
    def objects(self) -> dict[str, bytes]:
        """The backup's objects, but for the verification record."""
        return {name: content for name, content in self.store.objects.items() if not name.endswith(".proof.json")}


def sides_of(pair: Pair) -> dict[str, Side]:
    """A backup with its parent in DFW, and the copies of both in IAD; of the increment each region's side."""
    full = pair.keep(1)
    increment = pair.keep(2, full)
    for backup in (full, increment):
        pair.ask(backup)
        pair.work()
    here = pair.region.deployment
    there = replace(pair.there, peers={"DFW": Neighbour(here)})
    (copy,) = (found for found in pair.in_iad() if found.made_from == increment.id)

    def side(deployment: Deployment, region: str, backup: Backup, store: MemoryStore, other: MemoryStore) -> Side:
        stores, targets = OneStore(store), {region: OneStore(other)}

        def verifier() -> Verifier:
            return Verifier(deployment, stores, threading.Event(), targets)

        return Side(
            deployment=deployment, store=store, other=other, backup=backup, verifier=verifier, whole=dict(store.objects)
        )

    return {
        "the source": side(here, "IAD", increment, pair.source, pair.target),
        "the copy": side(there, "DFW", copy, pair.target, pair.source),
    }


class OneStore(MemoryStores):
    """The containers of all accounts: this one."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__()
        self._store = store

    def of(self, account: str) -> MemoryStore:
        """The one."""
        assert account == ACCOUNT
        return self._store


BOTH = pytest.mark.parametrize("which", ["the source", "the copy"])


@BOTH
@pytest.mark.parametrize("what", DAMAGES)
def test_what_is_damaged_comes_from_the_other_region(pair: Pair, which: str, what: str) -> None:
    """A verification names the region; the repaired objects are the same bytes; only the damaged ones were fetched."""
    side = sides_of(pair)[which]
    end, damage, fetched = DAMAGES[what]
    side.damage(end, damage)
    found = side.verify()
    assert (found.proof_status, found.proof_mend_from) == (
        VerificationStatus.FAILED,
        "IAD" if which == "the source" else "DFW",
    )
    verification_record = read_verification_record(side.store, side.backup.id, str(side.backup.manifest_sha256))
    assert verification_record is not None
    assert verification_record.mend_from == found.proof_mend_from

    read: list[str] = []
    side.other.on_call = read.append
    repaired = side.mend()
    assert (repaired.proof_status, repaired.proof_reason, repaired.proof_mend_from) == (
        VerificationStatus.PASSED,
        None,
        None,
    )
    assert (repaired.proving, repaired.mending) == (None, False)
    assert side.objects == side.whole
    manifests = what != "too long"  # which needs nothing from there
    assert read.count("get") == manifests + fetched + (end == "index")


def test_both_sides_are_damaged(pair: Pair) -> None:
    """Each side repairs the other where they are damaged at different places."""
    sides = sides_of(pair)
    sides["the source"].damage("xbstream.gz", lambda whole: b"?" * SEGMENT + whole[SEGMENT:])
    sides["the copy"].damage("xbstream.gz", lambda whole: whole[:-1] + b"?")
    for side in sides.values():
        assert side.mend().proof_status is VerificationStatus.PASSED
        assert side.objects == side.whole


@pytest.mark.parametrize(
    "damage", [lambda whole: bytes(SEGMENT) + whole[SEGMENT:], lambda _: None], ids=["segment", "all"]
)
def test_the_other_side_is_damaged_at_the_same_place(pair: Pair, damage: Damage) -> None:
    """The verification fails and names both; what can be repaired is repaired, and everything else stays."""
    sides = sides_of(pair)
    side, other = sides["the source"], sides["the copy"]
    side.damage("xbstream.gz", lambda whole: b"?" * SEGMENT + whole[SEGMENT:-1] + b"?")
    other.damage("xbstream.gz", damage)
    before = dict(other.store.objects)
    found = side.mend()
    assert (found.proof_status, found.mending, found.proof_mend_from) == (VerificationStatus.FAILED, False, None)
    assert "region IAD does not have it whole" in str(found.proof_reason)
    name = f"{side.backup.id}.xbstream.gz"
    assert side.store.objects[name][:SEGMENT] == b"?" * SEGMENT
    assert (side.store.objects[name][SEGMENT:] == side.whole[name][SEGMENT:]) == (
        f"{other.backup.id}.xbstream.gz" in before
    )
    assert other.store.objects == before


@pytest.mark.parametrize("end", ["index", "json", "xbstream.gz"])
def test_what_both_sides_have_lost(pair: Pair, end: str) -> None:
    """The verification fails, and nothing else is touched or left."""
    sides = sides_of(pair)
    for side in sides.values():
        side.damage(end, lambda _: None)
    side = sides["the source"]
    left = side.objects
    found = side.mend()
    assert found.proof_status is VerificationStatus.FAILED
    assert f"{side.backup.id}.{end}" in str(found.proof_reason)
    assert side.objects == left


def test_nobody_has_it(pair: Pair) -> None:
    """422 without a counterpart, also once the copy was deleted; 404 for no backup; a verification offers nothing."""
    backup = pair.keep(1)
    pair.source.objects[f"{backup.id}.index"] = b"?"
    deployment = pair.region.deployment
    with pytest.raises(Unprocessable, match="neither its source nor a copy"):
        request_repair(deployment, ACCOUNT, backup.id)
    with pytest.raises(NotFound):
        request_repair(deployment, ACCOUNT, "nothing")
    request_verification(deployment, ACCOUNT, backup.id, VerificationLevel.OBJECTS)
    Verifier(deployment, OneStore(pair.source), threading.Event(), {"IAD": OneStore(pair.target)}).verify(backup.id)
    found = show_backup(deployment, ACCOUNT, backup.id)
    assert (found.proof_status, found.proof_mend_from) == (VerificationStatus.FAILED, None)


def test_the_copy_was_deleted(pair: Pair) -> None:
    """What the other region no longer has it does not help with."""
    sides = sides_of(pair)
    delete_backup(pair.there, ACCOUNT, sides["the copy"].backup.id)
    with pytest.raises(Unprocessable, match="cannot be repaired"):
        sides["the source"].mend()


def test_a_backup_that_is_being_mended_is_in_use(pair: Pair) -> None:
    """It is neither deleted, nor verified, nor repaired a second time meanwhile."""
    side = sides_of(pair)["the copy"]
    request_repair(side.deployment, ACCOUNT, side.backup.id)
    with pytest.raises(Unprocessable, match="is in use"):
        delete_backup(side.deployment, ACCOUNT, side.backup.id)
    with pytest.raises(Unprocessable, match="already"):
        request_verification(side.deployment, ACCOUNT, side.backup.id, VerificationLevel.OBJECTS)
    with pytest.raises(Unprocessable, match="already"):
        side.mend()


def test_a_silent_region_is_503_when_asked_and_waited_for_later(pair: Pair) -> None:
    """The request is refused; a repair that was accepted is unknown until the region answers, and is a repair still."""
    side = sides_of(pair)["the source"]
    side.damage("xbstream.gz", flipped)
    pair.neighbour.silent = True
    with pytest.raises(Unavailable):
        side.mend()
    pair.neighbour.silent = False
    request_repair(side.deployment, ACCOUNT, side.backup.id)
    pair.neighbour.silent = True
    assert side.work().proof_status is VerificationStatus.UNKNOWN
    pair.neighbour.silent = False
    side.other.faults = [Fault("get", Transient("the store is silent"))]
    assert taken_up(pair, side, 1).proof_status is VerificationStatus.UNKNOWN
    assert taken_up(pair, side, 2).proof_status is VerificationStatus.PASSED
    assert side.objects == side.whole


def taken_up(pair: Pair, side: Side, rounds: int) -> Backup:
    """The worker looks again when the time of so many rounds has passed; the backup afterwards."""
    pair.region.clock.advance(rounds * side.deployment.settings.sweep_interval_s)
    side.verifier().retry()
    return side.work()


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("step", [step for step in Step if step.startswith(("mend.", "proof."))])
def test_a_mend_goes_on_where_it_was_cut_short(pair: Pair, step: Step, *, lost: bool) -> None:
    """Ended at any step, nothing is worse than before, and the next worker ends it."""
    side = sides_of(pair)["the copy"]
    side.damage("xbstream.gz", (lambda _: None) if lost else (lambda whole: whole[: SEGMENT + 3]))
    side.damage("index", flipped)
    side.damage("json", lambda _: None)
    harmed = harmed_bytes(side)
    request_repair(side.deployment, ACCOUNT, side.backup.id)

    def kill(at: Step) -> None:
        if at is step:
            raise Killed

    observers.append(kill)
    try:
        with nullcontext() if lost and step is Step.REPAIR_SEGMENT_WRITTEN else pytest.raises(Killed):
            side.work()
    finally:
        observers.remove(kill)
    assert harmed_bytes(side) <= harmed
    side.verifier().resume()
    assert side.work().proof_status is VerificationStatus.PASSED
    assert side.objects == side.whole


def harmed_bytes(side: Side) -> int:
    """How many bytes of the backup are not what they were."""
    count = 0
    for name, whole in side.whole.items():
        there = side.store.objects.get(name, b"")
        count += sum(one != other for one, other in zip(whole, there, strict=False)) + abs(len(whole) - len(there))
    return count
