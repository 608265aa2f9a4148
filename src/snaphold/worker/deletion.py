"""Removal of the objects of backups: requested deletes, and the sweep of failed attempts.

The manifest is always removed first, so that nothing half removed looks like a backup. A container may hold objects of
others: only names that start with the id of the backup, or with this deployment's prefix, are removed.
"""

import structlog

from snaphold.catalog import backups, hosts, incoming_copies
from snaphold.catalog.database import Catalog
from snaphold.errors import SnapholdError, in_full
from snaphold.model import INCOMING_COPY_WAIT_US, Backup, BackupStatus, IncomingCopy
from snaphold.objects import backup_prefix, manifest_name, object_prefix
from snaphold.reasons import reason_of
from snaphold.steps import Step, reached
from snaphold.store.base import ObjectStore, Stores

_log = structlog.get_logger()

_RECENT_US = 24 * 3600 * 1_000_000  # a host that returns later has lost its lease long ago


class Remover:
    """Removes objects of backups, for one region. Every method may run twice."""

    def __init__(self, catalog: Catalog, stores: Stores, deployment_id: str) -> None:
        self._catalog = catalog
        self._stores = stores
        self._deployment_id = deployment_id

    def delete_backup(self, backup_id: str) -> None:
        """Remove a backup and its increments, children first; if the store refuses, the rest becomes DELETE_FAILED."""
        with self._catalog.reading() as tx:
            family = [member for member in backups.family(tx, backup_id) if member.deleted_us is None]
        for position, member in enumerate(family):
            try:
                self._remove_objects(member)
            except Exception as error:  # noqa: BLE001 - whatever it was, the delete must end
                self._abandon([left.id for left in family[position:]], error)
                return
            with self._catalog.writing() as tx:
                backups.mark_deleted(tx, member.id)
            reached(Step.REMOVAL_RECORDED)
            _log.info("backup.deleted", backup=member.id, account=member.account)

    def retry_deletions(self) -> None:
        """Continue deletes whose job was lost: the catalog may have failed at any step."""
        with self._catalog.reading() as tx:
            waiting = backups.to_delete(tx)
        for backup_id in waiting:
            self.delete_backup(backup_id)

    def sweep_backup(self, backup_id: str) -> None:
        """Remove the objects of a failed backup; those that cannot be removed now are swept again later.

        Nothing is removed after a rebuild until an operator permits it (snaphold.worker.rebuild).
        """
        with self._catalog.reading() as tx:
            backup = backups.get(tx, backup_id)
            held = hosts.sweep_held_since(tx) is not None
        if held or backup is None or backup.status is not BackupStatus.FAILED:
            return
        self._sweep(backup)

    def sweep_recent(self, grace_us: int) -> None:
        """Sweep again behind silent hosts, which may have written for a while after their attempt was abandoned."""
        with self._catalog.reading() as tx:
            failed = backups.failed_since(tx, tx.now_us - _RECENT_US, tx.now_us - grace_us)
        for backup in failed:
            self.sweep_backup(backup.id)

    def sweep_incoming_copy(self, copy_id: str) -> None:
        """Remove the objects of an abandoned copy from another region; those that cannot be removed now are, later."""
        with self._catalog.reading() as tx:
            incoming = incoming_copies.get(tx, copy_id)
            held = hosts.sweep_held_since(tx) is not None
        if held or incoming is None or incoming.ended_us is None:
            return
        self._sweep(incoming)

    def sweep_incoming_copies(self, grace_us: int) -> None:
        """Abandon copies that have received nothing for long; forget those that ended, once all objects are removed.

        Objects that were being written when a copy ended are found after the grace time.
        """
        with self._catalog.writing() as tx:
            silent = incoming_copies.end_silent(tx, tx.now_us - INCOMING_COPY_WAIT_US)
            ended = incoming_copies.ended(tx, tx.now_us - grace_us)
            held = hosts.sweep_held_since(tx) is not None
        for copy_id in silent:
            _log.warning("backup.incoming_copy_abandoned", backup=copy_id)
        if held:
            return
        for incoming in ended:
            if self._sweep(incoming):
                with self._catalog.writing() as tx:
                    incoming_copies.remove(tx, incoming.id)

    def _sweep(self, backup: Backup | IncomingCopy) -> bool:
        """Remove all objects of a backup; whether that has succeeded."""
        try:
            removed = self._remove_objects(backup)
        except SnapholdError as error:
            _log.warning("backup.sweep_failed", backup=backup.id, reason=in_full(error))
            return False
        if removed:
            _log.info("backup.swept", backup=backup.id, objects=removed)
        return True

    def _remove_objects(self, backup: Backup | IncomingCopy) -> int:
        store = self._stores.of(backup.account)
        reached(Step.REMOVAL_BEGUN)
        store.delete(manifest_name(backup.id))
        reached(Step.REMOVAL_MANIFEST_REMOVED)
        removed = self._remove_under(store, object_prefix(backup.id)) + self._remove_under(
            store, backup_prefix(self._deployment_id, backup.id)
        )
        reached(Step.REMOVAL_OBJECTS_REMOVED)
        return removed

    @staticmethod
    def _remove_under(store: ObjectStore, prefix: str) -> int:
        names = [found.name for found in store.list(prefix)]
        for name in names:
            store.delete(name)
        return len(names)

    def _abandon(self, backup_ids: list[str], error: Exception) -> None:
        _log.warning("backup.delete_failed", backups=backup_ids, reason=in_full(error), exc_info=error)
        reason = reason_of(error) if isinstance(error, SnapholdError) else "The objects could not be removed."
        with self._catalog.writing() as tx:
            backups.mark_delete_failed(tx, backup_ids, reason)
