"""Conversion of a backup's facts from and to its manifest (see :mod:`snaphold.facts` for the other forms)."""

from typing import Any, Literal

from snaphold.facts import BackupFacts
from snaphold.formats.manifest import DatastoreFacts, Lineage, Manifest, Source
from snaphold.model import Origin, parse_rfc3339, rfc3339, rfc3339_exact
from snaphold.objects import index_name
from snaphold.protocol import BackupSpec


def new_manifest(
    spec: BackupSpec,
    *,
    attempt: int,
    parent_id: str | None,
    updated_us: int,
    made: Literal["taken", "consolidated"],
    made_from: str | None,
    size_bytes: int,
    datastore: DatastoreFacts,
    lineage: Lineage,
    **objects: Any,
) -> Manifest:
    """The manifest of a backup that a host makes. ``objects``: the fields that describe its data and index."""
    return Manifest(
        id=spec.id,
        account=spec.account,
        deployment=spec.deployment,
        attempt=attempt,
        name=spec.name,
        description=spec.description,
        source=Source(type=spec.source_type, id=spec.source_id),
        instance_id=spec.instance_id,
        parent_id=parent_id,
        created=spec.created,
        updated=rfc3339(updated_us),
        is_automated=spec.is_automated,
        made=made,
        made_from=made_from,
        volume_gb=spec.volume_gb,
        flavor_ram_mb=spec.flavor_ram_mb,
        size_bytes=size_bytes,
        datastore=datastore,
        lineage=lineage,
        **objects,
    )


def facts_of(manifest: Manifest) -> BackupFacts:
    """The facts in a manifest. Raises ``ValueError`` or ``OverflowError`` for a time that cannot be parsed."""
    return BackupFacts(
        id=manifest.id,
        account=manifest.account,
        name=manifest.name,
        description=manifest.description,
        source_type=manifest.source.type,
        source_id=manifest.source.id,
        instance_id=manifest.instance_id if manifest.source.type == "instance" else None,
        parent_id=manifest.parent_id,
        datastore=manifest.datastore.type,
        version=manifest.datastore.version,
        flavor_ram_mb=manifest.flavor_ram_mb,
        volume_gb=manifest.volume_gb,
        is_automated=manifest.is_automated,
        made=Origin(manifest.made),
        made_from=manifest.made_from,
        made_from_region=manifest.made_from_region,
        size_bytes=manifest.size_bytes,
        object_bytes=manifest.data.size_bytes,
        object_name=manifest.data.name,
        incarnation=manifest.lineage.incarnation,
        checkpoint_lsn=manifest.lineage.checkpoint_lsn,
        to_lsn=manifest.lineage.to_lsn,
        created_us=parse_rfc3339(manifest.created),
        updated_us=parse_rfc3339(manifest.updated),
    )


def with_facts(
    manifest: Manifest, facts: BackupFacts, *, deployment_id: str, attempt: int, parent_sha256: str | None
) -> Manifest:
    """The manifest of another backup with the same data: a copy in another region, or the original of a copy."""
    return manifest.model_copy(
        update={
            "id": facts.id,
            "deployment": deployment_id,
            "attempt": attempt,
            "name": facts.name,
            "description": facts.description,
            "parent_id": facts.parent_id,
            "created": rfc3339_exact(facts.created_us),
            "updated": rfc3339(facts.updated_us),
            "is_automated": facts.is_automated,
            "made": facts.made.value,
            "made_from": facts.made_from,
            "made_from_region": facts.made_from_region,
            "lineage": manifest.lineage.model_copy(update={"parent_manifest_sha256": parent_sha256}),
            "data": manifest.data.model_copy(update={"name": facts.object_name}),
            "index": manifest.index.model_copy(update={"name": index_name(facts.id)}),
        }
    )
