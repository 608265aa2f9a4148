"""Copying backups to other regions: from store to store, with each segment's hash checked before it is written.

    announced there → segments → data object → index → manifest → record there → record here

Every step may run twice. Objects that an earlier try has written are used again once their hashes were checked. The
other region lists nothing before the copy is complete.
"""

import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

import structlog

from snaphold.catalog import backups, copies
from snaphold.errors import (
    Damaged,
    ObjectExists,
    Permanent,
    Refused,
    SnapholdError,
    Superseded,
    Transient,
    Unavailable,
    in_full,
)
from snaphold.facts import facts_of_copy, record_of
from snaphold.formats.backup_facts import facts_of, with_facts
from snaphold.formats.manifest import Manifest, load, sha256_of
from snaphold.model import Backup, Copy, CopyStatus, copy_waits_us
from snaphold.objects import index_name, manifest_name, segment_prefix
from snaphold.protocol import PeerAnswer
from snaphold.reasons import reason_of
from snaphold.service.copies import announce_copy, ask, begin_ancestor, give_up, resume_copies, retry_copies
from snaphold.service.deployment import Deployment
from snaphold.steps import Step, reached
from snaphold.store.base import Containers, ObjectStore, Stores
from snaphold.stream.segments import check_length
from snaphold.stream.transfer import bring_data

_log = structlog.get_logger()

_ATTEMPT: Final = 1  # a copy has one attempt: each try continues it


class Copier:
    """Copies backups of one region to the others. ``targets``: the stores of each peer region."""

    def __init__(
        self, deployment: Deployment, stores: Stores, targets: Mapping[str, Containers], stop: threading.Event
    ) -> None:
        self._deployment = deployment
        self._stores = stores
        self._targets = targets
        self._stop = stop
        self._lock = threading.Lock()
        self._at_work: set[str] = set()

    def copy(self, copy_id: str) -> None:
        """Make one copy, unless it has ended or is being made in another thread.

        If a region or store does not answer, the copy is tried again later (``model.copy_waits_us``); the backup itself
        is not affected. Nothing is recorded when the process is being stopped: the next worker continues.
        """
        with self._lock:
            if copy_id in self._at_work:
                return
            self._at_work.add(copy_id)
        try:
            self._try(copy_id)
        finally:
            with self._lock:
                self._at_work.discard(copy_id)

    def resume(self) -> None:
        """Continue the copies that an earlier process had begun."""
        resume_copies(self._deployment)

    def retry(self) -> None:
        """Retry the copies that did not get an answer, once they have waited long enough."""
        retry_copies(self._deployment)

    def _try(self, copy_id: str) -> None:
        with self._deployment.catalog.writing() as tx:
            copy = copies.begin(tx, copy_id)
            backup = None if copy is None else backups.get(tx, copy.backup_id)
        if copy is None or backup is None:
            return
        reached(Step.COPY_BEGUN)
        try:
            self._make(copy, backup)
        except Superseded:
            return
        except (Transient, Unavailable) as error:
            self._wait(copy, error)
        except (Permanent, Refused) as error:
            self._fail(copy, reason_of(error), in_full(error))
        except Exception as error:  # noqa: BLE001 - whatever it was, the copy must end
            _log.warning("backup.copy_crashed", backup=copy.backup_id, copy=copy.copy_id, exc_info=error)
            self._fail(copy, "The copy could not be made.")
        else:
            self._complete(copy)

    def _make(self, copy: Copy, backup: Backup) -> None:
        """Make the copy. Raises the error that prevents it."""
        if copy.region not in self._targets:
            raise Permanent(f"Region {copy.region} is not set up as a place for copies any more.")
        answer = self._with_parent(copy, backup)
        there = answer.copies.get(backup.id)
        if there is not None:
            if there.id != copy.copy_id:
                raise Permanent(f"Another copy is in region {copy.region} already.")
            return
        parent = None if backup.parent_id is None else answer.copies[backup.parent_id]
        source, target = self._stores.of(copy.account), self._targets[copy.region].of(copy.account)
        manifest = _manifest_of(source, backup)
        parent_id = None if parent is None else parent.id
        facts = facts_of_copy(facts_of(manifest), copy, region=self._deployment.region, parent_id=parent_id)
        announce_copy(self._deployment, copy, len(manifest.segments))
        reached(Step.COPY_ANNOUNCED)
        bring_data(
            manifest,
            source,
            target,
            facts.object_name,
            segment_prefix(answer.deployment, copy.copy_id, _ATTEMPT),
            stop=self._stop,
            on_segments=lambda: reached(Step.COPY_SEGMENTS_WRITTEN),
        )
        reached(Step.COPY_PUBLISHED)
        _copy_index(source, target, manifest, copy)
        reached(Step.COPY_INDEX_WRITTEN)
        new = with_facts(
            manifest,
            facts,
            deployment_id=answer.deployment,
            attempt=_ATTEMPT,
            parent_sha256=None if parent is None else parent.manifest_sha256,
        )
        document = new.dump()
        target.replace(manifest_name(copy.copy_id), document)
        reached(Step.COPY_MANIFEST_WRITTEN)
        self._deployment.peers[copy.region].record(record_of(facts, sha256_of(document)))
        reached(Step.COPY_RECORDED)

    def _with_parent(self, copy: Copy, backup: Backup) -> PeerAnswer:
        """What the other region has of the backup and its parent, which is copied first if the request allows it."""
        parent = None
        if backup.parent_id is not None:
            with self._deployment.catalog.reading() as tx:
                parent = backups.get(tx, backup.parent_id)
        wanted = [backup, *([] if parent is None else [parent])]
        answer = ask(self._deployment, copy.region, copy.account, wanted)
        if backup.parent_id is None or backup.parent_id in answer.copies:
            return answer
        if not copy.with_ancestors:
            raise Permanent(f"Its parent {backup.parent_id} is not in region {copy.region}.")
        ancestor = begin_ancestor(self._deployment, copy, backup.parent_id)
        self.copy(ancestor.id)
        with self._deployment.catalog.reading() as tx:
            made = copies.get(tx, ancestor.id)
        if made is None or made.status is CopyStatus.FAILED:
            raise Permanent(f"Its parent {backup.parent_id} could not be copied: {made.reason if made else ''}")
        if made.status is not CopyStatus.COMPLETED:
            raise Transient(f"Its parent {backup.parent_id} is still being copied.")
        return ask(self._deployment, copy.region, copy.account, wanted)

    def _wait(self, copy: Copy, error: SnapholdError) -> None:
        wait_us = copy_waits_us(copy.tries + 1)
        if wait_us is None:
            self._fail(copy, reason_of(error), in_full(error))
            return
        _log.warning("backup.copy_delayed", backup=copy.backup_id, copy=copy.copy_id, reason=in_full(error))
        with self._deployment.catalog.writing() as tx:
            copies.change(tx, copy.id, tries=copy.tries + 1, next_try_us=tx.now_us + wait_us, reason=reason_of(error))

    def _complete(self, copy: Copy) -> None:
        with self._deployment.catalog.writing() as tx:
            copies.change(tx, copy.id, status=CopyStatus.COMPLETED, reason=None)
        reached(Step.COPY_ENDED)
        _log.info("backup.copied", backup=copy.backup_id, copy=copy.copy_id, region=copy.region)

    def _fail(self, copy: Copy, reason: str, in_the_log: str | None = None) -> None:
        """Record the failure, unless the other region has the copy: its answer may have been lost."""
        if self._clear(copy):
            self._complete(copy)
            return
        _log.warning("backup.copy_failed", backup=copy.backup_id, copy=copy.copy_id, reason=in_the_log or reason)
        with self._deployment.catalog.writing() as tx:
            copies.change(tx, copy.id, status=CopyStatus.FAILED, reason=reason)

    def _clear(self, copy: Copy) -> bool:
        """Have the objects of a failed copy removed there; True if the other region has the copy after all.

        If that region does not answer, everything stays until it abandons the copy by itself.
        """
        with suppress(Unavailable, Refused, KeyError):
            return give_up(self._deployment, copy)
        return False


def _manifest_of(source: ObjectStore, backup: Backup) -> Manifest:
    name = manifest_name(backup.id)
    manifest = load(b"".join(source.get(name)), name=name, sha256=backup.manifest_sha256 or "")
    check_length(manifest, source)
    return manifest


def _copy_index(source: ObjectStore, target: ObjectStore, manifest: Manifest, copy: Copy) -> None:
    """Copy the index, once its hash was checked."""
    data = b"".join(source.get(manifest.index.name))
    if sha256_of(data) != manifest.index.sha256:
        raise Damaged(f"the index {manifest.index.name} differs from what was written")
    name = index_name(copy.copy_id)
    try:
        target.put(name, data)
    except ObjectExists:
        if b"".join(target.get(name)) != data:
            target.replace(name, data)
