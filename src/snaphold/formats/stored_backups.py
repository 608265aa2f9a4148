"""Checks whether the store has a backup that a host or a peer reports, and whether its manifest says the same."""

from collections.abc import Callable
from typing import Final

from snaphold.errors import Damaged, ObjectMissing, Permanent
from snaphold.facts import BackupFacts, facts_of_record, result_of
from snaphold.formats.backup_facts import facts_of
from snaphold.formats.manifest import Manifest, parse, sha256_of
from snaphold.objects import index_name, manifest_name
from snaphold.protocol import BackupResult, PeerRecord
from snaphold.store.base import Containers, ObjectStore

MAX_MANIFEST_BYTES: Final = 64 << 20  # enough for the segments of 30 TiB
_KINDS: Final = {"json": "manifest", "index": "index"}


class StoredBackups:
    """The published backups of a region. Use stores that do not retry: callers wait for the answer.

    Both methods return why the store has no such backup, or None if it has it: the manifest with the reported hash,
    the facts in it as reported, and its data and index with their lengths. Only a verification reads every byte.
    Raises ``Transient`` if the store does not answer.
    """

    def __init__(self, containers: Containers) -> None:
        self._containers = containers

    def fault_of_result(self, account: str, backup_id: str, result: BackupResult) -> str | None:
        """Check what a host reports of a backup that it has completed."""

        def matches(manifest: Manifest, facts: BackupFacts) -> bool:
            sha256 = result.manifest_sha256
            return result == result_of(facts, sha256, from_lsn=manifest.lineage.from_lsn, proof=result.proof)

        return self._fault(account, backup_id, result, matches)

    def fault_of_record(self, record: PeerRecord) -> str | None:
        """Check what a peer reports of a copy that it has completed."""
        return self._fault(record.account, record.id, record, lambda _, facts: facts == facts_of_record(record))

    def _fault(
        self,
        account: str,
        backup_id: str,
        reported: BackupResult | PeerRecord,
        matches: Callable[[Manifest, BackupFacts], bool],
    ) -> str | None:
        try:
            self._check(account, backup_id, reported, matches)
        except ObjectMissing as error:
            kind = _KINDS.get(error.name.rpartition(".")[2], "data object")
            return f"The {kind} of backup {backup_id} is not in the store."
        except _FalseReportError as error:
            return str(error)
        except (Damaged, ValueError, OverflowError):
            return f"The manifest of backup {backup_id} cannot be understood."
        except Permanent:
            return f"The objects of backup {backup_id} cannot be read."
        return None

    def _check(
        self,
        account: str,
        backup_id: str,
        reported: BackupResult | PeerRecord,
        matches: Callable[[Manifest, BackupFacts], bool],
    ) -> None:
        if reported.object_name.partition(".")[0] != backup_id:
            raise _FalseReportError(f"The object {reported.object_name} is not backup {backup_id}'s.")
        store = self._containers.of(account)
        document = _read(store, manifest_name(backup_id))
        if document is None or sha256_of(document) != reported.manifest_sha256:
            raise _FalseReportError(f"The manifest of backup {backup_id} is another one.")
        if store.size(reported.object_name) != reported.object_bytes:
            raise _FalseReportError(f"The data object of backup {backup_id} has another length.")
        manifest = parse(document, name=manifest_name(backup_id))
        facts = facts_of(manifest)
        if (facts.id, facts.account) != (backup_id, account) or not matches(manifest, facts):
            raise _FalseReportError(f"The manifest of backup {backup_id} does not say what was reported.")
        name = index_name(backup_id)
        if (manifest.index.name, manifest.index.size_bytes) != (name, store.size(name)):
            raise _FalseReportError(f"The index of backup {backup_id} has another name or length.")


class _FalseReportError(Exception):
    """The objects in the store contradict the report. The message says which."""


def _read(store: ObjectStore, name: str) -> bytes | None:
    """The bytes of a manifest. None: there are more of them than any manifest has."""
    document = bytearray()
    for piece in store.get(name, 0, MAX_MANIFEST_BYTES + 1):
        document += piece
    return bytes(document) if len(document) <= MAX_MANIFEST_BYTES else None
