"""The named steps of an agent's and a worker's work, so that tests can kill a process exactly between two of them.

Reaching a step is logged at DEBUG and calls every ``observers`` entry (there are none outside tests).
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Any, Final

import structlog

_log = structlog.get_logger(__name__)


class Step(StrEnum):
    """The steps, in the order in which they are reached. The comments say what exists on disk or in the store then."""

    BACKUP_CLAIMED = "backup.claimed"  # nothing yet
    BACKUP_MEASURED = "backup.measured"  # nothing yet
    BACKUP_TOOL_STARTED = "backup.tool-started"  # the backup tool runs
    BACKUP_SEGMENTS_WRITTEN = "backup.segments-written"  # every segment
    BACKUP_PUBLISHED = "backup.published"  # the data object
    BACKUP_INDEX_WRITTEN = "backup.index-written"  # data object and index
    BACKUP_MANIFEST_WRITTEN = "backup.manifest-written"  # a complete backup that is not recorded
    BACKUP_VERIFIED = "backup.proven"  # the same with its verification record
    BACKUP_REPORTED = "backup.reported"  # a recorded backup

    CONSOLIDATE_CLAIMED = "consolidate.claimed"  # nothing yet
    CONSOLIDATE_CHECKED = "consolidate.checked"  # nothing yet; the chain is good and its objects exist
    CONSOLIDATE_LAID = "consolidate.laid"  # a directory with all files, unprepared
    CONSOLIDATE_SEGMENTS_WRITTEN = "consolidate.segments-written"  # every segment
    CONSOLIDATE_PUBLISHED = "consolidate.published"  # the data object
    CONSOLIDATE_MANIFEST_WRITTEN = "consolidate.manifest-written"  # a complete backup that is not recorded
    CONSOLIDATE_VERIFIED = "consolidate.proven"  # the same with its verification record
    CONSOLIDATE_REPORTED = "consolidate.reported"  # a recorded backup

    CREATE_CLAIMED = "create.claimed"  # nothing yet
    CREATE_BUILT = "create.built"  # a running server that is not recorded

    RESTORE_CLAIMED = "restore.claimed"  # nothing yet
    RESTORE_CHECKED = "restore.checked"  # nothing yet; the manifest is good and the objects exist
    RESTORE_STAGED = "restore.staged"  # an empty staging directory
    RESTORE_EXTRACTED = "restore.extracted"  # a staging directory with all files, unprepared
    RESTORE_PREPARED = "restore.prepared"  # a staging directory that a server could start on
    RESTORE_FINISHED = "restore.finished"  # a running server that is not recorded
    RESTORE_REPORTED = "restore.reported"  # a recorded instance

    VERIFY_CLAIMED = "verify.claimed"  # nothing of the verification
    VERIFY_STAGED = "verify.staged"  # an empty staging directory
    VERIFY_EXTRACTED = "verify.extracted"  # a staging directory with all files, unprepared
    VERIFY_PREPARED = "verify.prepared"  # a staging directory that a server could start on
    VERIFY_STARTED = "verify.started"  # a running scratch server
    VERIFY_CHECKED = "verify.checked"  # the same; every table was checked
    VERIFY_KEPT = "verify.kept"  # nothing on the host; the verification record, but no result in the catalog
    VERIFY_REPORTED = "verify.reported"  # nothing on the host; verification record and result

    RESTART_CLAIMED = "restart.claimed"  # the old server
    RESTART_STOPPED = "restart.stopped"  # no server
    RESTART_STARTED = "restart.started"  # the new server

    STOP_CLAIMED = "stop.claimed"  # the server
    STOP_STOPPED = "stop.stopped"  # no server; the catalog does not know that yet

    START_CLAIMED = "start.claimed"  # no server
    START_STARTED = "start.started"  # the server; the catalog does not know that yet

    RESIZE_CLAIMED = "resize.claimed"  # the old server
    RESIZE_STOPPED = "resize.stopped"  # no server
    RESIZE_NOTED = "resize.noted"  # no server; the host has recorded the new size
    RESIZE_STARTED = "resize.started"  # the server with its new size; the catalog still has the old one

    DELETE_CLAIMED = "delete.claimed"  # the server and its directory
    DELETE_REMOVED = "delete.removed"  # nothing; the catalog still has the instance

    # Of the API process: committed, but the answer is not sent yet.
    CONTROL_ASKED = "control.asked"  # a backup, an instance or a delete was requested
    CONTROL_CLAIMED = "control.claimed"  # an agent has claimed a task
    CONTROL_REPORTED = "control.reported"  # a task has ended

    SCHEDULE_RUN = "schedule.run"  # a scheduled backup was requested

    VERIFICATION_BEGUN = "proof.begun"  # a backup in use
    VERIFICATION_READ = "proof.read"  # the same; all its objects were read back
    VERIFICATION_KEPT = "proof.kept"  # the same and its verification record
    VERIFICATION_RECORDED = "proof.recorded"  # a backup that is not in use any more, with its verification record

    REPAIR_BEGUN = "mend.begun"  # a backup in use, damaged
    REPAIR_SEGMENT_WRITTEN = "mend.segment-written"  # the same, and a draft of the repaired data object
    REPAIR_DATA_WRITTEN = "mend.data-written"  # a good data object
    REPAIR_INDEX_WRITTEN = "mend.index-written"  # data object and index
    REPAIR_MANIFEST_WRITTEN = "mend.manifest-written"  # a complete backup in use, not verified yet

    COPY_BEGUN = "copy.begun"  # nothing in the other region yet
    COPY_ANNOUNCED = "copy.announced"  # nothing but the announcement of its objects
    COPY_SEGMENTS_WRITTEN = "copy.segments-written"  # every segment in the other region
    COPY_PUBLISHED = "copy.published"  # the data object in the other region
    COPY_INDEX_WRITTEN = "copy.index-written"  # data object and index in the other region
    COPY_MANIFEST_WRITTEN = "copy.manifest-written"  # a complete backup in the other region that is not recorded there
    COPY_RECORDED = "copy.recorded"  # a recorded backup there; the catalog here does not know that yet
    COPY_ENDED = "copy.ended"  # the same; the catalog here knows it

    REMOVAL_BEGUN = "removal.begun"  # all objects of a backup that is being deleted, or has failed
    REMOVAL_MANIFEST_REMOVED = "removal.manifest-removed"  # objects that are not a backup any more
    REMOVAL_OBJECTS_REMOVED = "removal.objects-removed"  # nothing; the catalog still has the backup
    REMOVAL_RECORDED = "removal.recorded"  # nothing

    # Of `snaphold catalog rebuild`, which never changes the store.
    REBUILD_HELD = "rebuild.held"  # the removal of orphans is suspended
    REBUILD_RECORDED = "rebuild.recorded"  # one more backup is recorded again

    # Of `snaphold state backup`; the worker does the same every night.
    STATE_READ = "state.read"  # the earlier saved states
    STATE_SAVED = "state.saved"  # one more saved state
    STATE_PRUNED = "state.pruned"  # as many saved states as are kept
    # Of `snaphold state restore`, which is followed by a rebuild.
    STATE_ACCOUNTS_RESTORED = "state.accounts-restored"  # accounts and users
    STATE_RESTORED = "state.restored"  # hosts, instances and failed backups as well


observers: Final[list[Callable[[Step], None]]] = []


def reached(step: Step, **facts: Any) -> None:
    """Log that the calling thread has reached a step, and call the observers in it."""
    _log.debug("step", step=step.value, **facts)
    for observer in observers:
        observer(step)
