"""The facts of a completed backup, and their conversion from each form that they travel or are stored in.

    BackupSpec ─▶ Manifest ─▶ BackupFacts ─┬▶ BackupResult ─▶ columns of the row      a host reports a backup
                                           ├▶ PeerRecord ─▶ BackupFacts ─▶ Backup     a copy is recorded in its region
                                           └▶ Backup                                  the catalog is rebuilt

A new fact is added here, and to the forms that carry it; nothing else maps them field by field. The conversions from
and to the manifest are in :mod:`snaphold.formats.backup_facts`: the control plane's requests import no stored format.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, cast

from snaphold.model import (
    Backup,
    BackupStatus,
    Copy,
    Instance,
    Origin,
    VerificationLevel,
    VerificationStatus,
    parse_rfc3339,
    rfc3339,
    rfc3339_exact,
    version_id,
)
from snaphold.protocol import BackupResult, BackupSpec, PeerRecord, VerificationResult

SourceType = Literal["instance", "ha"]


@dataclass(frozen=True, kw_only=True)
class BackupFacts:
    """What is true of a completed backup for as long as it exists.

    The SHA-256 of its manifest is not among the facts: the manifest contains them, and its hash vouches for them.
    """

    id: str
    account: str
    name: str
    description: str | None
    source_type: SourceType
    source_id: str
    instance_id: str | None  # as clients are shown it; None: the source is a group
    parent_id: str | None
    datastore: str
    version: str
    flavor_ram_mb: int
    volume_gb: int
    is_automated: bool
    made: Origin
    made_from: str | None
    made_from_region: str | None
    size_bytes: int
    object_bytes: int
    object_name: str
    incarnation: str
    checkpoint_lsn: int | None
    to_lsn: int
    created_us: int
    updated_us: int  # to the second


class Verified(Protocol):
    """What a verification has shown: a ``VerificationResult``, or the record of one in the store."""

    @property
    def status(self) -> VerificationStatus: ...  # noqa: D102
    @property
    def level(self) -> VerificationLevel: ...  # noqa: D102
    @property
    def at(self) -> str: ...  # noqa: D102
    @property
    def seconds(self) -> float: ...  # noqa: D102
    @property
    def reason(self) -> str | None: ...  # noqa: D102
    @property
    def mend_from(self) -> str | None: ...  # noqa: D102


def spec_of(
    backup: Backup,
    *,
    deployment_id: str,
    verify: VerificationLevel | None,
    parent_named: bool = True,
    instance: Instance | None = None,
) -> BackupSpec:
    """The specification of a backup for the host that takes it from ``instance``, or makes it from a chain (None)."""
    return BackupSpec(
        id=backup.id,
        account=backup.account,
        instance_id=backup.taken_from if instance is None else instance.id,
        deployment=deployment_id,
        name=backup.name,
        description=backup.description,
        source_type=cast("SourceType", backup.source_type),
        source_id=backup.source_id,
        parent_id=backup.parent_id,
        parent_named=parent_named,
        max_lsn=None if instance is None else instance.max_lsn,
        ended_incarnation=None if instance is None else instance.ended_incarnation,
        created=rfc3339_exact(backup.created_us),
        is_automated=backup.is_automated,
        volume_gb=backup.volume_gb,
        flavor_ram_mb=backup.flavor_ram_mb,
        datastore=backup.datastore,
        version=backup.version,
        version_id=version_id(backup.datastore, backup.version),
        verify=verify,
    )


def result_of(
    facts: BackupFacts, manifest_sha256: str, *, from_lsn: int | None, proof: VerificationResult | None
) -> BackupResult:
    """The report of a backup that its host has completed."""
    return BackupResult(
        manifest_sha256=manifest_sha256,
        parent_id=facts.parent_id,
        size_bytes=facts.size_bytes,
        object_bytes=facts.object_bytes,
        object_name=facts.object_name,
        incarnation=facts.incarnation,
        from_lsn=from_lsn,
        checkpoint_lsn=facts.checkpoint_lsn,
        to_lsn=facts.to_lsn,
        updated=rfc3339(facts.updated_us),
        proof=proof,
    )


def completed_values(result: BackupResult) -> dict[str, Any]:
    """The columns that a host's report adds to the row of a backup."""
    full_instead = {"parent_id": None} if result.parent_id is None else {}  # its parent was not named, or it has none
    return {
        "manifest_sha256": result.manifest_sha256,
        "size_bytes": result.size_bytes,
        "object_bytes": result.object_bytes,
        "object_name": result.object_name,
        "incarnation": result.incarnation,
        "checkpoint_lsn": result.checkpoint_lsn,
        "to_lsn": result.to_lsn,
        "updated_us": parse_rfc3339(result.updated),
        **full_instead,
        **({} if result.proof is None else verification_values(result.proof)),
    }


def verification_values(shown: Verified) -> dict[str, Any]:
    """The columns of the newest verification. Raises ``ValueError`` for a time that cannot be parsed."""
    return {
        "proof_status": VerificationStatus(shown.status),
        "proof_level": shown.level,
        "proof_at_us": parse_rfc3339(shown.at),
        "proof_seconds": shown.seconds,
        "proof_reason": shown.reason,
        "proof_mend_from": shown.mend_from,
    }


def completed_backup(facts: BackupFacts, manifest_sha256: str, verified: Verified | None = None) -> Backup:
    """The COMPLETED backup with these facts and the newest verification. Raises as ``verification_values`` does."""
    values = {} if verified is None else verification_values(verified)
    return Backup(status=BackupStatus.COMPLETED, manifest_sha256=manifest_sha256, **vars(facts), **values)


def record_of(facts: BackupFacts, manifest_sha256: str) -> PeerRecord:
    """The message that has a copy recorded in its region."""
    return PeerRecord(
        id=facts.id,
        account=facts.account,
        name=facts.name,
        description=facts.description,
        source_type=facts.source_type,
        source_id=facts.source_id,
        instance_id=facts.instance_id,
        parent_id=facts.parent_id,
        datastore=facts.datastore,
        backup_version=facts.version,
        flavor_ram_mb=facts.flavor_ram_mb,
        volume_gb=facts.volume_gb,
        is_automated=facts.is_automated,
        made_from=facts.made_from or "",
        made_from_region=facts.made_from_region or "",
        size_bytes=facts.size_bytes,
        object_bytes=facts.object_bytes,
        object_name=facts.object_name,
        manifest_sha256=manifest_sha256,
        incarnation=facts.incarnation,
        checkpoint_lsn=facts.checkpoint_lsn,
        to_lsn=facts.to_lsn,
        created=rfc3339_exact(facts.created_us),
        updated=rfc3339(facts.updated_us),
    )


def facts_of_record(record: PeerRecord) -> BackupFacts:
    """The facts of a copy, as the region that it comes from has recorded them."""
    return BackupFacts(
        id=record.id,
        account=record.account,
        name=record.name,
        description=record.description,
        source_type=record.source_type,
        source_id=record.source_id,
        instance_id=record.instance_id,
        parent_id=record.parent_id,
        datastore=record.datastore,
        version=record.backup_version,
        flavor_ram_mb=record.flavor_ram_mb,
        volume_gb=record.volume_gb,
        is_automated=record.is_automated,
        made=Origin.COPIED,
        made_from=record.made_from,
        made_from_region=record.made_from_region,
        size_bytes=record.size_bytes,
        object_bytes=record.object_bytes,
        object_name=record.object_name,
        incarnation=record.incarnation,
        checkpoint_lsn=record.checkpoint_lsn,
        to_lsn=record.to_lsn,
        created_us=parse_rfc3339(record.created),
        updated_us=parse_rfc3339(record.updated),
    )


def facts_of_copy(original: BackupFacts, copy: Copy, *, region: str, parent_id: str | None) -> BackupFacts:
    """The facts of a copy that is made from ``original`` in ``region``; the same at every try."""
    begun_us = copy.begun_us or copy.created_us
    return replace(
        original,
        id=copy.copy_id,
        name=copy.name,
        description=copy.description,
        parent_id=parent_id,
        made=Origin.COPIED,
        made_from=copy.backup_id,
        made_from_region=region,
        object_name=f"{copy.copy_id}{original.object_name.removeprefix(original.id)}",
        created_us=begun_us,
        updated_us=begun_us,
    )


def facts_of_replica(replica: BackupFacts, backup: Backup) -> BackupFacts:
    """The facts of ``backup``, whose manifest is lost: its own from the catalog, of its data from the replica's."""
    return replace(
        replica,
        id=backup.id,
        name=backup.name,
        description=backup.description,
        parent_id=backup.parent_id,
        is_automated=backup.is_automated,
        made=backup.made,
        made_from=backup.made_from,
        made_from_region=backup.made_from_region,
        object_name=backup.object_name or replica.object_name,
        created_us=backup.created_us,
        updated_us=backup.updated_us,
    )
