"""Reading backups back: the proofs that need no host."""

import dataclasses
import threading
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType

import structlog

from snaphold import __version__
from snaphold.catalog import backups
from snaphold.errors import Damaged, ObjectMissing, Overtaken, Permanent, SnapholdError, in_full
from snaphold.model import Backup, ProofLevel, ProofStatus, rfc3339
from snaphold.protocol import ProofResult
from snaphold.reasons import reason_of
from snaphold.service.chains import members_of
from snaphold.service.deployment import Deployment
from snaphold.service.verification import resume_proofs, take_up_proofs
from snaphold.steps import Step, reached
from snaphold.store.base import Containers, ObjectStore, Stores
from snaphold.stream.courtesy import Courtesy
from snaphold.stream.proof import (
    ObjectFacts,
    Receipt,
    damage_below,
    keep_receipt,
    kept_receipt,
    object_facts,
    prove_objects,
    still_proven,
    verdict_on,
)
from snaphold.worker.mending import Mender

log = structlog.get_logger()


class Prover:
    """Reads objects of backups back, for one region, and mends those that were asked to be mended before.

    Every method may run twice; ``stop`` ends what is under way. ``targets``: the stores of each region that is a peer.
    """

    def __init__(
        self, deployment: Deployment, stores: Stores, stop: threading.Event,
        targets: Mapping[str, Containers] = MappingProxyType({}),
    ) -> None:  # fmt: skip
        self._deployment = deployment
        self._stores = stores
        self._stop = stop
        settings = deployment.settings
        self._courtesy = Courtesy(niceness=settings.niceness, io_priority=settings.io_priority)
        self._mender = Mender(deployment, stores, targets, stop, self._courtesy)
        self._lock = threading.Lock()
        self._at_work: dict[str, bool] = {}  # whether it was asked for again meanwhile

    def prove(self, backup_id: str) -> None:
        """Prove one backup's objects, unless that was done meanwhile; what another thread is at, that one goes on with.

        When the process is being stopped nothing is recorded: the next worker begins again.
        """
        with self._lock:
            if backup_id in self._at_work:
                self._at_work[backup_id] = True
                return
            self._at_work[backup_id] = False
        again = False
        try:
            with self._deployment.catalog.reading() as tx:
                backup = backups.get(tx, backup_id)
            if backup is not None and backup.proving is ProofLevel.OBJECTS and backup.manifest_sha256 is not None:
                self._prove(backup, backup.manifest_sha256)
        finally:
            with self._lock:
                again = self._at_work.pop(backup_id)
        if again:  # the one that was asked for as this one ended
            self.prove(backup_id)

    def resume(self) -> None:
        """Go on with what an earlier process had begun."""
        resume_proofs(self._deployment)

    def take_up(self) -> None:
        """Try again what ended unknown."""
        take_up_proofs(self._deployment)

    def _prove(self, backup: Backup, manifest_sha256: str) -> None:
        begun_s = time.monotonic()
        reached(Step.PROOF_BEGUN)
        try:
            store = self._stores.of(backup.account)
            facts: dict[str, ObjectFacts] = {}
            status, reason = self._read(backup, lambda: facts.update(self._read_own(store, backup, manifest_sha256)))
            offered = self._mender.offer(backup) if status is ProofStatus.FAILED and not backup.mending else None
            if status is ProofStatus.PASSED:
                status, reason = self._read(backup, lambda: self._read_ancestors(store, backup))
            result = self._result(begun_s, status, reason, mend_from=offered)
            reached(Step.PROOF_READ)
            if status is not ProofStatus.UNKNOWN:
                self._keep(store, backup.id, manifest_sha256, result, facts)
            reached(Step.PROOF_KEPT)
        except Overtaken:
            return
        except Exception as error:  # whatever it was, the backup must not stay "being proven"
            known = isinstance(error, SnapholdError)
            log.warning("backup.proof_failed", backup=backup.id, reason=in_full(error), exc_info=not known)
            reason = reason_of(error) if known else "The objects could not be read back."
            result = self._result(begun_s, ProofStatus.UNKNOWN, reason)
        with self._deployment.catalog.writing() as tx:
            backups.end_proof(tx, backup.id, result)
        reached(Step.PROOF_RECORDED)
        log.info(
            "backup.proven", backup=backup.id, proof=result.level.value, status=result.status.value,
            seconds=result.seconds, reason=result.reason, mend_from=result.mend_from,
        )  # fmt: skip

    @staticmethod
    def _keep(
        store: ObjectStore, backup_id: str, manifest_sha256: str, result: ProofResult, facts: dict[str, ObjectFacts]
    ) -> None:
        """Leave the receipt. The catalog has the result also where the store does not take it: it may be read-only."""
        told = result.model_dump()
        try:
            keep_receipt(
                store,
                Receipt(id=backup_id, manifest_sha256=manifest_sha256, by=__version__, objects=facts, **told),
            )
        except SnapholdError as error:
            log.warning("backup.receipt_not_kept", backup=backup_id, reason=in_full(error))

    @staticmethod
    def _read(backup: Backup, read: Callable[[], object]) -> tuple[ProofStatus, str | None]:
        try:
            read()
        except Overtaken:
            raise
        except SnapholdError as error:
            log.warning("backup.not_sound", backup=backup.id, reason=in_full(error))
            return verdict_on(error), reason_of(error)
        return ProofStatus.PASSED, None

    def _read_own(self, store: ObjectStore, backup: Backup, manifest_sha256: str) -> dict[str, ObjectFacts]:
        """Mend and read the backup's own objects; what they were before that. Raises as ``prove_objects`` does."""
        if backup.mending:
            self._mender.mend(backup)
        facts = object_facts(store, backup.id)
        prove_objects(
            store,
            backup.id,
            manifest_sha256,
            threads=self._deployment.settings.compression_threads,
            courtesy=self._courtesy,
            stop=self._stop,
        )
        return facts

    def _read_ancestors(self, store: ObjectStore, backup: Backup) -> None:
        """Read what the backup depends on, but for what has passed a proof and has not changed since.

        Raises:
            Damaged: one of them is damaged, or an object of it is gone; the message names it.
            Permanent: one of them is not on record. Otherwise as ``prove_objects``.
        """
        with self._deployment.catalog.reading() as tx:
            _, *ancestors = members_of(tx, backup)
        if (lost := [backup, *ancestors][-1].parent_id) is not None:
            raise Permanent(f"the backup {lost}, which it depends on, is not on record")
        for ancestor in ancestors:
            sha256 = ancestor.manifest_sha256 or ""
            if still_proven(store, ancestor.id, sha256):
                continue
            try:
                facts = self._read_own(store, dataclasses.replace(ancestor, mending=False), sha256)
            except (Damaged, ObjectMissing) as error:
                raise damage_below(ancestor.name, ancestor.id, error) from error
            self._note_read(store, ancestor.id, sha256, facts)

    def _note_read(self, store: ObjectStore, backup_id: str, sha256: str, facts: dict[str, ObjectFacts]) -> None:
        """Spare the next increment the reading, where the store takes a receipt; one of a failure stays as it is."""
        try:
            earlier = kept_receipt(store, backup_id, sha256)
            if earlier is None:
                result = self._result(time.monotonic(), ProofStatus.PASSED, None)
                self._keep(store, backup_id, sha256, result, facts)
            elif earlier.status is ProofStatus.PASSED:
                keep_receipt(store, earlier.model_copy(update={"objects": facts}))
        except SnapholdError as error:
            log.info("backup.receipt_not_kept", backup=backup_id, reason=in_full(error))

    def _result(
        self, begun_s: float, status: ProofStatus, reason: str | None, *, mend_from: str | None = None
    ) -> ProofResult:
        return ProofResult(
            status=status,
            level=ProofLevel.OBJECTS,
            at=rfc3339(self._deployment.catalog.now_us()),
            seconds=round(time.monotonic() - begun_s, 3),
            reason=reason,
            mend_from=mend_from,
        )
