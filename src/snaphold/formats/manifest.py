"""The manifest of a backup: the small object that makes its segments a backup (docs/reference/format.md).

It is written last and deleted first: nothing without a valid manifest is a backup. A reader trusts it only when the
SHA-256 of its bytes is the one that was recorded with COMPLETED.
"""

import hashlib
import json
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from snaphold.errors import Damaged

FORMAT: Final = "snaphold-backup"
VERSION: Final = 1
CodecName = Literal["gzip", "zstd"]


class Frozen(BaseModel):
    """A part of the manifest."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Segment(Frozen):
    """One segment of the data object, in order."""

    size_bytes: int
    sha256: str


class DataFacts(Frozen):
    """The data object. ``sha256``: of the whole; None, for what the segments' hashes say is enough."""

    name: str
    size_bytes: int
    sha256: str | None = None  # the first backups have it


class IndexFacts(Frozen):
    """The index, which is vouched for as a whole."""

    name: str
    size_bytes: int
    sha256: str


class DatastoreFacts(Frozen):
    """What server the data came from."""

    type: str
    version: str
    version_id: str
    server_version: str
    tool_version: str


class Lineage(Frozen):
    """Where the backup stands in the life of its data directory, and in its chain.

    ``parent_manifest_sha256``: of the manifest of the backup that ``parent_id`` names; so whoever trusts a manifest
    can trust the whole chain below it. ``imported``: tablespaces with pages of which no log tells, for they came from
    elsewhere (``ALTER TABLE … IMPORT TABLESPACE``); as they were when the backup began, so that new ones are known.
    ``unfinished``: ids of tablespaces that were being made or rebuilt from before its checkpoint until after its end:
    it has nothing of them, so no increment on it can have all.
    """

    incarnation: str
    from_lsn: int | None
    checkpoint_lsn: int | None
    to_lsn: int
    last_lsn: int
    gtid: str | None = None
    parent_manifest_sha256: str | None = None
    imported: list[str] = []
    unfinished: list[int] = []


class Source(Frozen):
    """What was backed up."""

    type: Literal["instance", "ha"]
    id: str


class Manifest(Frozen):
    """All that the answers about a COMPLETED backup need, and all that a restore needs. Times: RFC 3339, UTC."""

    format: Literal["snaphold-backup"] = FORMAT
    version: Literal[1] = VERSION
    id: str
    account: str
    deployment: str
    attempt: int
    name: str
    description: str | None
    source: Source
    instance_id: str
    parent_id: str | None
    created: str
    updated: str
    is_automated: bool
    made: Literal["taken", "consolidated", "copied"] = "taken"
    made_from: str | None = None  # the backup that this one consolidates, or is a copy of
    made_from_region: str | None = None  # where that one is, for a copy
    volume_gb: int
    flavor_ram_mb: int
    size_bytes: int  # what the source's data used
    stream_bytes: int  # the xbstream, decompressed
    codec: CodecName
    level: int
    datastore: DatastoreFacts
    lineage: Lineage
    data: DataFacts
    index: IndexFacts
    segment_size_bytes: int
    segments: list[Segment]

    def dump(self) -> bytes:
        """The bytes that are stored: sorted, readable JSON, the same for the same content."""
        return json.dumps(self.model_dump(), indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def sha256_of(data: bytes) -> str:
    """The hash by which a manifest is trusted, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def load(data: bytes, *, name: str, sha256: str) -> Manifest:
    """Read a manifest that must be the very one recorded.

    Raises:
        Damaged: its hash is another, or it is no manifest that this release understands.
    """
    if sha256_of(data) != sha256:
        raise Damaged(f"the manifest {name} is not the one that was recorded when the backup completed")
    return parse(data, name=name)


def parse(data: bytes, *, name: str) -> Manifest:
    """Read a manifest whose hash nobody remembers. Whether it is what was written only its objects can tell.

    Raises:
        Damaged: it is no manifest that this release understands.
    """
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        raise Damaged(f"the manifest {name} cannot be understood: {error.error_count()} fields do not fit") from error
