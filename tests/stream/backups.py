"""Makes small backups in a store."""

import io
from typing import TYPE_CHECKING

from snaphold.formats.manifest import (
    CodecName,
    DataFacts,
    DatastoreFacts,
    IndexFacts,
    Lineage,
    Manifest,
    Source,
    sha256_of,
)
from snaphold.store.base import ObjectStore
from snaphold.stream.segments import Written, write_backup

if TYPE_CHECKING:
    from snaphold.formats.xbstream import Chunk, File

SEGMENT = 1 << 20  # bytes
PREFIX = "snaphold/deployment/backup/1/"
ID = "00000001-0000-4000-8000-000000000000"
NAME = f"{ID}.xbstream.gz"


class AnyStream:
    """A watch that takes every stream: what it lets through the reading side must refuse."""

    def __init__(self) -> None:
        self.files: list[File] = []
        self.chunks: list[Chunk] = []
        self.commits_wait = self.writers_wait = False

    def feed(self, data: memoryview) -> None:
        """Look away."""

    def finish(self) -> None:
        """Let it pass."""


def manifest_of(written: Written, segment_size: int = SEGMENT) -> Manifest:
    """A manifest of what was written."""
    return Manifest(
        id=ID,
        account="1",
        deployment="deployment",
        attempt=1,
        name="a backup",
        description=None,
        source=Source(type="instance", id="instance"),
        instance_id="instance",
        parent_id=None,
        created="2026-01-01T00:00:00.000000Z",
        updated="2026-01-01T00:00:00Z",
        is_automated=False,
        volume_gb=1,
        flavor_ram_mb=512,
        size_bytes=written.stream_bytes,
        stream_bytes=written.stream_bytes,
        codec="gzip",
        level=1,
        datastore=DatastoreFacts(
            type="mariadb", version="10.11", version_id="v", server_version="10.11.19", tool_version="10.11.19"
        ),
        lineage=Lineage(incarnation="i", from_lsn=None, checkpoint_lsn=1, to_lsn=2, last_lsn=3),
        data=DataFacts(name=NAME, size_bytes=written.size_bytes, segment_size=written.segment_size),
        index=IndexFacts(name=f"{ID}.index", size_bytes=len(written.index), sha256=sha256_of(written.index)),
        segment_size_bytes=segment_size,
        segments=written.segments,
    )


def taken(store: ObjectStore, stream: bytes, codec: CodecName = "gzip") -> Manifest:
    """Publish any stream as a backup, in segments of SEGMENT bytes; no check is made of what it is."""
    written = write_backup(
        io.BytesIO(stream).readinto,
        store,
        PREFIX,
        codec=codec,
        level=1,
        threads=2,
        watch=AnyStream(),
        kill=lambda: None,
        segment_size=SEGMENT,
    )
    store.publish(NAME, PREFIX, len(written.segments), size_bytes=written.size_bytes, segment_size=written.segment_size)
    return manifest_of(written).model_copy(update={"codec": codec})
