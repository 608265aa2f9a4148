"""Backups as objects of a store without a database: manifests that say what records say."""

from dataclasses import replace

from snaphold.formats.manifest import (
    DataFacts,
    DatastoreFacts,
    IndexFacts,
    Lineage,
    Manifest,
    Segment,
    Source,
    sha256_of,
)
from snaphold.model import Backup, BackupStatus, Origin, rfc3339, rfc3339_exact, version_id
from snaphold.store.base import ObjectStore
from tests.support.region import ACCOUNT

DATA = b"the data object"
INDEX = b"the index"
PARTS = bytes(range(40))  # a data object of three segments
SEGMENT = 16  # bytes of each but the last
CREATED_US = 1_700_000_000_123_456


def a_backup_record(number: int, parent: Backup | None = None, account: str = ACCOUNT) -> Backup:
    """A COMPLETED backup of instance 1 as the catalog has it."""
    backup_id = f"{number:08d}-0000-4000-8000-000000000000"
    return Backup(
        id=backup_id,
        account=account,
        name=f"backup {number}",
        description="nightly, by hand" if number % 2 else None,
        status=BackupStatus.COMPLETED,
        deleting=False,
        instance_id="00000001-0000-4000-8000-00000000aaaa",
        source_type="instance",
        source_id="00000001-0000-4000-8000-00000000aaaa",
        parent_id=None if parent is None else parent.id,
        datastore="mariadb",
        version="10.11",
        flavor_ram_mb=1024,
        volume_gb=2,
        is_automated=number % 2 == 0,
        made=Origin.TAKEN,
        made_from=None,
        made_from_region=None,
        size_bytes=200 << 20,
        object_bytes=len(DATA),
        object_name=f"{backup_id}.xbstream.gz",
        manifest_sha256=None,
        incarnation="i",
        checkpoint_lsn=100 * number,
        to_lsn=100 * number + 50,
        done_bytes=None,
        expected_bytes=None,
        bytes_per_s=None,
        step=None,
        reason=None,
        created_us=CREATED_US + number,
        updated_us=CREATED_US // 1_000_000 * 1_000_000 + 7_000_000,
        deleted_us=None,
    )


def manifest_of(backup: Backup, deployment: str, parent: Backup | None = None) -> Manifest:
    """The manifest of a record."""
    assert backup.instance_id is not None
    assert backup.object_name is not None
    assert backup.size_bytes is not None
    assert backup.to_lsn is not None
    sha256 = sha256_of(DATA)
    return Manifest(
        id=backup.id,
        account=backup.account,
        deployment="any",
        attempt=1,
        name=backup.name,
        description=backup.description,
        source=Source(type="instance", id=backup.source_id),
        instance_id=backup.instance_id,
        parent_id=backup.parent_id,
        created=rfc3339_exact(backup.created_us),
        updated=rfc3339(backup.updated_us),
        is_automated=backup.is_automated,
        volume_gb=backup.volume_gb,
        flavor_ram_mb=backup.flavor_ram_mb,
        size_bytes=backup.size_bytes,
        stream_bytes=300 << 20,
        codec="gzip",
        level=1,
        datastore=DatastoreFacts(
            type="mariadb",
            version="10.11",
            version_id=version_id("mariadb", "10.11"),
            server_version="10.11.19",
            tool_version="10.11.19",
        ),
        lineage=Lineage(
            incarnation="i",
            from_lsn=None if parent is None else parent.checkpoint_lsn,
            checkpoint_lsn=backup.checkpoint_lsn,
            to_lsn=backup.to_lsn,
            last_lsn=backup.to_lsn,
            parent_manifest_sha256=None if parent is None else parent.manifest_sha256,
        ),
        data=DataFacts(name=backup.object_name, size_bytes=len(DATA)),
        index=IndexFacts(name=f"{backup.id}.index", size_bytes=len(INDEX), sha256=sha256_of(INDEX)),
        segment_size_bytes=64 << 20,
        segments=[Segment(size_bytes=len(DATA), sha256=sha256)],
    ).model_copy(update={"deployment": deployment})  # of whatever form


def put_backup(store: ObjectStore, backup: Backup, deployment: str, parent: Backup | None = None) -> Backup:
    """Put a backup's objects; its record, with the manifest's hash."""
    document = manifest_of(backup, deployment, parent).dump()
    store.put(str(backup.object_name), DATA)
    store.put(f"{backup.id}.index", INDEX)
    store.put(f"{backup.id}.json", document)
    return replace(backup, manifest_sha256=sha256_of(document))


def put_in_segments(store: ObjectStore, record: Backup, deployment: str, parent: Backup | None) -> Backup:
    """Put a backup whose data object has several segments."""
    parts = [PARTS[start : start + SEGMENT] for start in range(0, len(PARTS), SEGMENT)]
    manifest = manifest_of(record, deployment, parent).model_copy(
        update={
            "data": DataFacts(name=str(record.object_name), size_bytes=len(PARTS)),
            "segment_size_bytes": SEGMENT,
            "segments": [Segment(size_bytes=len(part), sha256=sha256_of(part)) for part in parts],
        }
    )
    store.put(str(record.object_name), PARTS)
    store.put(f"{record.id}.index", INDEX)
    store.put(f"{record.id}.json", manifest.dump())
    return replace(record, manifest_sha256=sha256_of(manifest.dump()))
