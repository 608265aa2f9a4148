"""The manifest of a backup: a small object that describes all the others (docs/reference/format.md).

It is written last and deleted first: without a valid manifest there is no backup. A reader trusts a manifest only if
its SHA-256 is the one that the catalog recorded when the backup became COMPLETED.
"""

import hashlib
import json
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from snaphold.errors import Damaged
from snaphold.model import ID_FORM
from snaphold.objects import MAX_SEGMENT_SIZE
from snaphold.protocol import (
    MAX_DESCRIPTION,
    Account,
    DatastoreType,
    Id,
    Incarnation,
    Number,
    ObjectName,
    RegionName,
    Series,
    Sha256,
    Small,
    Time,
)

FORMAT: Final = "snaphold-backup"
VERSION: Final = 1
CodecName = Literal["gzip", "zstd"]
_FAULTS_NAMED: Final = 5  # fields that the message about a manifest names


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not contain NUL characters")
    return text


BackupId = Annotated[str, Field(pattern=f"^{ID_FORM}$")]
IndexName = Annotated[str, Field(pattern=f"^{ID_FORM}\\.index$")]
BackupName = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_without_nul)]
Description = Annotated[str, Field(max_length=MAX_DESCRIPTION), AfterValidator(_without_nul)]
Version = Annotated[str, Field(pattern=r"^[A-Za-z0-9.+~:_-]{1,64}$")]  # "10.11.19"
FileIdentity = Annotated[str, Field(pattern=r"^[0-9]{1,20}:[0-9]{1,20}:(?:-?[0-9]{1,20}|None)$")]
TablespaceId = Annotated[int, Field(ge=0, lt=1 << 32)]


class Frozen(BaseModel):
    """A part of the manifest.

    Its fields have the forms that messages between hosts, regions and the service have: whoever can write to the store
    can write a manifest, and ``rebuild`` believes it.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")


class Segment(Frozen):
    """One segment of the data object, in order."""

    size_bytes: Annotated[int, Field(ge=1, le=MAX_SEGMENT_SIZE)]
    sha256: Sha256


class DataFacts(Frozen):
    """The data object. ``sha256``: of the whole object; today None, because each segment has its own hash."""

    name: ObjectName
    size_bytes: Number
    sha256: Sha256 | None = None  # the oldest backups have one


class IndexFacts(Frozen):
    """The index. One hash covers all of it."""

    name: IndexName
    size_bytes: Number
    sha256: Sha256


class DatastoreFacts(Frozen):
    """The server that the data came from."""

    type: DatastoreType
    version: Series
    version_id: Id
    server_version: Version
    tool_version: Version


class Lineage(Frozen):
    """The position of the backup in the history of its data directory, and in its chain.

    ``parent_manifest_sha256``: the hash of the parent's manifest; it extends the trust in a manifest to the chain below
    it. ``imported``: the tablespaces that were imported (``ALTER TABLE … IMPORT TABLESPACE``) before the backup began.
    No log records their pages, so that a later increment must notice new ones. ``unfinished``: the ids of tablespaces
    that were being created or rebuilt from before the backup's checkpoint until after its end. The backup contains
    nothing of them, and no increment on it can be complete.
    """

    incarnation: Incarnation
    from_lsn: Number | None
    checkpoint_lsn: Number | None
    to_lsn: Number
    last_lsn: Number
    gtid: Annotated[str, Field(max_length=65_535)] | None = None
    parent_manifest_sha256: Sha256 | None = None
    imported: list[FileIdentity] = []
    unfinished: list[TablespaceId] = []


class Source(Frozen):
    """The source of the backup."""

    type: Literal["instance", "ha"]
    id: Id


class Manifest(Frozen):
    """Everything that is needed to show a COMPLETED backup and to restore it. Times: RFC 3339, UTC."""

    format: Literal["snaphold-backup"] = FORMAT
    version: Literal[1] = VERSION
    id: BackupId
    account: Account
    deployment: Account  # of the same form
    attempt: Small
    name: BackupName
    description: Description | None
    source: Source
    instance_id: Id
    parent_id: BackupId | None
    created: Time
    updated: Time
    is_automated: bool
    made: Literal["taken", "consolidated", "copied"] = "taken"
    made_from: BackupId | None = None  # the backup that this one consolidates or copies
    made_from_region: RegionName | None = None  # the region of the original, for a copy
    volume_gb: Small
    flavor_ram_mb: Small
    size_bytes: Number  # disk space that the source's data used
    stream_bytes: Number  # the xbstream, decompressed
    codec: CodecName
    level: Annotated[int, Field(ge=0, le=100)]
    datastore: DatastoreFacts
    lineage: Lineage
    data: DataFacts
    index: IndexFacts
    segment_size_bytes: Annotated[int, Field(ge=1, le=MAX_SEGMENT_SIZE)]
    segments: Annotated[list[Segment], Field(min_length=1)]

    @model_validator(mode="after")
    def _segments_add_up(self) -> Self:
        """All segments but the last have the segment size, and together they have the data object's length."""
        *whole, last = (segment.size_bytes for segment in self.segments)
        full = self.segment_size_bytes
        if last > full or any(size != full for size in whole) or sum(whole) + last != self.data.size_bytes:
            raise ValueError("the segments do not add up to the data object")
        return self

    def dump(self) -> bytes:
        """Return the bytes to store: readable JSON with sorted keys. Equal manifests have equal bytes."""
        return json.dumps(self.model_dump(), indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def sha256_of(data: bytes) -> str:
    """Return the SHA-256 in hexadecimal, which identifies a manifest."""
    return hashlib.sha256(data).hexdigest()


def load(data: bytes, *, name: str, sha256: str) -> Manifest:
    """Parse a manifest that must have this hash.

    Raises:
        Damaged: it has another hash, or this release does not understand it.
    """
    if sha256_of(data) != sha256:
        raise Damaged(f"the manifest {name} is not the one that was recorded when the backup completed")
    return parse(data, name=name)


def parse(data: bytes, *, name: str) -> Manifest:
    """Parse a manifest whose hash is not known. Only its objects can show whether it is correct.

    Raises:
        Damaged: this release does not understand it.
    """
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        faults = [".".join(map(str, fault["loc"])) or fault["msg"] for fault in error.errors(include_url=False)]
        named = ", ".join(faults[:_FAULTS_NAMED]) + (", …" if len(faults) > _FAULTS_NAMED else "")
        raise Damaged(f"the manifest {name} cannot be understood: {len(faults)} fields do not fit ({named})") from error
