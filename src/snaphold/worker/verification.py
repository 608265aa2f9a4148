"""Verification of the objects of backups: they are read back and compared with their recorded hashes."""

import threading
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType

import structlog

from snaphold import __version__
from snaphold.catalog import backups
from snaphold.errors import Permanent, SnapholdError, Superseded, in_full
from snaphold.formats.verification_record import ObjectFacts, VerificationRecord
from snaphold.model import Backup, VerificationLevel, VerificationStatus, rfc3339
from snaphold.protocol import VerificationResult
from snaphold.reasons import reason_of
from snaphold.service.chains import members_of
from snaphold.service.deployment import Deployment
from snaphold.service.verification import resume_verifications, retry_verifications
from snaphold.steps import Step, reached
from snaphold.store.base import Containers, ObjectStore, Stores
from snaphold.stream.priority import Priority
from snaphold.stream.verification import (
    Ancestor,
    object_facts,
    verdict_on,
    verify_ancestors,
    verify_objects,
    write_verification_record,
)
from snaphold.worker.repair import Repairer

_log = structlog.get_logger()


class Verifier:
    """Verifies the objects of one region's backups, and repairs them first where a repair was requested.

    Every method may run twice. ``stop`` interrupts a verification. ``targets``: the stores of each peer region.
    """

    def __init__(
        self, deployment: Deployment, stores: Stores, stop: threading.Event,
        targets: Mapping[str, Containers] = MappingProxyType({}),
    ) -> None:  # fmt: skip
        self._deployment = deployment
        self._stores = stores
        self._stop = stop
        settings = deployment.settings
        self._priority = Priority(niceness=settings.niceness, io_priority=settings.io_priority)
        self._repairer = Repairer(deployment, stores, targets, stop, self._priority)
        self._lock = threading.Lock()
        self._at_work: dict[str, bool] = {}  # whether it was requested again meanwhile

    def verify(self, backup_id: str) -> None:
        """Verify the objects of one backup, unless it is no longer requested or another thread is doing it.

        Nothing is recorded when the process is being stopped: the next worker begins again.
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
            if (
                backup is not None
                and backup.proving is VerificationLevel.OBJECTS
                and backup.manifest_sha256 is not None
            ):
                self._verify(backup, backup.manifest_sha256)
        finally:
            with self._lock:
                again = self._at_work.pop(backup_id)
        if again:  # requested when this one was ending
            self.verify(backup_id)

    def resume(self) -> None:
        """Continue the verifications that an earlier process had begun."""
        resume_verifications(self._deployment)

    def retry(self) -> None:
        """Retry the verifications that ended unknown."""
        retry_verifications(self._deployment)

    def _verify(self, backup: Backup, manifest_sha256: str) -> None:
        begun_s = time.monotonic()
        reached(Step.VERIFICATION_BEGUN)
        try:
            store = self._stores.of(backup.account)
            facts: dict[str, ObjectFacts] = {}
            status, reason = self._read(backup, lambda: facts.update(self._read_own(store, backup, manifest_sha256)))
            offered = (
                self._repairer.offer(backup) if status is VerificationStatus.FAILED and not backup.mending else None
            )
            if status is VerificationStatus.PASSED:
                status, reason = self._read(backup, lambda: self._read_ancestors(store, backup))
            result = self._result(begun_s, status, reason, mend_from=offered)
            reached(Step.VERIFICATION_READ)
            if status is not VerificationStatus.UNKNOWN:
                self._keep(store, backup.id, manifest_sha256, result, facts)
            reached(Step.VERIFICATION_KEPT)
        except Superseded:
            return
        except Exception as error:  # noqa: BLE001 - whatever it was, the verification must end
            known = isinstance(error, SnapholdError)
            _log.warning("backup.verification_crashed", backup=backup.id, reason=in_full(error), exc_info=not known)
            reason = reason_of(error) if known else "The objects could not be read back."
            result = self._result(begun_s, VerificationStatus.UNKNOWN, reason)
        with self._deployment.catalog.writing() as tx:
            backups.end_verification(tx, backup.id, result)
        reached(Step.VERIFICATION_RECORDED)
        _log.info(
            "backup.verified", backup=backup.id, proof=result.level.value, status=result.status.value,
            seconds=result.seconds, reason=result.reason, mend_from=result.mend_from,
        )  # fmt: skip

    @staticmethod
    def _keep(
        store: ObjectStore,
        backup_id: str,
        manifest_sha256: str,
        result: VerificationResult,
        facts: dict[str, ObjectFacts],
    ) -> None:
        """Write the verification record. The catalog gets the result even if the store is read-only."""
        told = result.model_dump()
        try:
            write_verification_record(
                store,
                VerificationRecord(
                    id=backup_id, manifest_sha256=manifest_sha256, by=__version__, objects=facts, **told
                ),
            )
        except SnapholdError as error:
            _log.warning("backup.verification_record_not_written", backup=backup_id, reason=in_full(error))

    @staticmethod
    def _read(backup: Backup, read: Callable[[], object]) -> tuple[VerificationStatus, str | None]:
        try:
            read()
        except Superseded:
            raise
        except SnapholdError as error:
            _log.warning("backup.verification_not_passed", backup=backup.id, reason=in_full(error))
            return verdict_on(error), reason_of(error)
        return VerificationStatus.PASSED, None

    def _read_own(self, store: ObjectStore, backup: Backup, manifest_sha256: str) -> dict[str, ObjectFacts]:
        """Mend and read the backup's own objects; what they were before that. Raises as ``verify_objects`` does."""
        if backup.mending:
            self._repairer.repair(backup)
        facts = object_facts(store, backup.id)
        verify_objects(
            store,
            backup.id,
            manifest_sha256,
            threads=self._deployment.settings.compression_threads,
            priority=self._priority,
            stop=self._stop,
        )
        return facts

    def _read_ancestors(self, store: ObjectStore, backup: Backup) -> None:
        """Read the backups that this one depends on. Raises as ``verify_ancestors``, and for one not on record."""
        with self._deployment.catalog.reading() as tx:
            _, *ancestors = members_of(tx, backup)
        if (lost := [backup, *ancestors][-1].parent_id) is not None:
            raise Permanent(f"the backup {lost}, which it depends on, is not in the catalog")
        verify_ancestors(
            store,
            [
                Ancestor(backup_id=ancestor.id, manifest_sha256=ancestor.manifest_sha256 or "", name=ancestor.name)
                for ancestor in reversed(ancestors)
            ],
            now_us=self._deployment.catalog.now_us,
            threads=self._deployment.settings.compression_threads,
            priority=self._priority,
            stop=self._stop,
        )

    def _result(
        self, begun_s: float, status: VerificationStatus, reason: str | None, *, mend_from: str | None = None
    ) -> VerificationResult:
        return VerificationResult(
            status=status,
            level=VerificationLevel.OBJECTS,
            at=rfc3339(self._deployment.catalog.now_us()),
            seconds=round(time.monotonic() - begun_s, 3),
            reason=reason,
            mend_from=mend_from,
        )
