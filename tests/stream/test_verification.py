"""Reading a backup back, and the verification record of it."""

import random
import threading
from collections.abc import Callable

import pytest

from snaphold.errors import Damaged, ObjectMissing, Permanent, SnapholdError, Superseded, Transient
from snaphold.formats.manifest import Manifest, sha256_of
from snaphold.formats.verification_record import Checksums, VerificationRecord
from snaphold.model import VerificationLevel, VerificationStatus
from snaphold.objects import verification_record_name
from snaphold.stream.verification import read_verification_record, verify_objects
from tests.fakes.memory_store import Fault, MemoryStore
from tests.stream.backups import ID, NAME, SEGMENT, taken

STREAM = random.Random(1).randbytes(3 * SEGMENT)  # does not shrink: four segments


class Vault:
    """A store with one backup."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.manifest: Manifest = taken(self.store, STREAM)
        self.sha256 = sha256_of(self.manifest.dump())
        self.store.objects[f"{ID}.json"] = self.manifest.dump()
        self.store.objects[f"{ID}.index"] = b"index"
        index = self.manifest.index.model_copy(update={"sha256": sha256_of(b"index")})
        self.manifest = self.manifest.model_copy(update={"index": index})
        self.store.objects[f"{ID}.json"] = self.manifest.dump()
        self.sha256 = sha256_of(self.manifest.dump())

    def verify(self, **more: object) -> Manifest:
        """Read it back."""
        return verify_objects(self.store, ID, self.sha256, **more)  # type: ignore[arg-type]


@pytest.fixture
def vault() -> Vault:
    """A good backup."""
    return Vault()


def flip(store: MemoryStore, name: str, at: int) -> None:
    """Change one bit of an object."""
    content = bytearray(store.objects[name])
    content[at] ^= 1
    store.objects[name] = bytes(content)


def test_a_good_backup(vault: Vault) -> None:
    """Every object is read, and the manifest handed on; progress counts the segments' bytes to the end."""
    seen: list[int] = []
    assert vault.verify(on_progress=seen.append) == vault.manifest
    assert seen[-1] == vault.manifest.data.size_bytes
    assert len(seen) == len(vault.manifest.segments) == 4


@pytest.mark.parametrize(
    ("damage", "error", "named"),
    [
        pytest.param(lambda s: flip(s, NAME, 2 * SEGMENT + 7), Damaged, f"segment 2 of {NAME}", id="a flipped bit"),
        pytest.param(lambda s: flip(s, f"{ID}.index", 2), Damaged, f"{ID}.index", id="a flipped bit of the index"),
        pytest.param(lambda s: flip(s, f"{ID}.json", 40), Damaged, f"{ID}.json", id="a flipped bit of the manifest"),
        pytest.param(lambda s: s.objects.update({NAME: s.objects[NAME][:-1]}), Damaged, NAME, id="cut short"),
        pytest.param(lambda s: s.objects.update({NAME: s.objects[NAME] + b"x"}), Damaged, NAME, id="grown"),
        *(
            pytest.param(lambda s, n=name: s.objects.pop(n), ObjectMissing, name, id=f"{name} lost")
            for name in (NAME, f"{ID}.index", f"{ID}.json")
        ),
    ],
)
def test_a_damaged_backup(
    vault: Vault, damage: Callable[[MemoryStore], object], error: type[SnapholdError], named: str
) -> None:
    """Bytes that differ, or are gone, are found, and the object is named."""
    damage(vault.store)
    with pytest.raises(error, match=named):
        vault.verify()


@pytest.mark.parametrize("error", [Transient("silent"), Permanent("refused")], ids=str)
def test_a_store_that_does_not_answer(vault: Vault, error: SnapholdError) -> None:
    """It is no damage: the store's own fault is handed on as it is."""
    vault.store.faults = [Fault("get", error, first=4, last=4)]
    with pytest.raises(type(error), match=str(error)) as caught:
        vault.verify()
    assert not isinstance(caught.value, Damaged)


def test_a_proof_that_is_stopped(vault: Vault) -> None:
    """It ends with the next piece."""
    stop = threading.Event()
    with pytest.raises(Superseded):
        vault.verify(threads=1, on_progress=lambda _: stop.set(), stop=stop)


def a_verification_record(vault: Vault, **change: object) -> VerificationRecord:
    """What a verification by a restore leaves."""
    verification_record = VerificationRecord(
        id=ID,
        manifest_sha256=vault.sha256,
        status=VerificationStatus.PASSED,
        level=VerificationLevel.RESTORE,
        at="2026-01-01T00:00:00Z",
        seconds=1.5,
        by="0.1.0",
        checksums=Checksums(server_version="10.11.19", tables={"shop.t": 17}),
    )
    return verification_record.model_copy(update=change)


def test_a_receipt_is_read_as_it_was_kept(vault: Vault) -> None:
    """What was kept is what is read, as long as it is of this very backup."""
    vault.store.replace(verification_record_name(ID), a_verification_record(vault).dump())
    assert read_verification_record(vault.store, ID, vault.sha256) == a_verification_record(vault)
    assert read_verification_record(vault.store, ID, "0" * 64) is None


@pytest.mark.parametrize("content", [None, b"", b"{}", b"\xff", b'{"format": "another"}'], ids=str)
def test_a_receipt_that_is_none(vault: Vault, content: bytes | None) -> None:
    """A verification record that is lost or damaged is none, and no fault of the backup."""
    if content is not None:
        vault.store.objects[verification_record_name(ID)] = content
    assert read_verification_record(vault.store, ID, vault.sha256) is None


def test_a_receipt_that_cannot_be_read(vault: Vault) -> None:
    """A store that does not answer has not said that there is none."""
    vault.store.replace(verification_record_name(ID), a_verification_record(vault).dump())
    vault.store.faults = [Fault("get", Transient("silent"))]
    with pytest.raises(Transient):
        read_verification_record(vault.store, ID, vault.sha256)
