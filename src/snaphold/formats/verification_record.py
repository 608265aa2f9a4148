"""The verification record: what the newest verification of a backup found (docs/reference/format.md).

It is an object of its own beside the manifest, ``<id>.proof.json``. Each verification that reaches a verdict replaces
it. A restore does not rely on it: it checks everything again.
"""

from typing import Final, Literal

from pydantic import Field

from snaphold.formats.manifest import Frozen
from snaphold.model import VerificationLevel, VerificationStatus

FORMAT: Final = "snaphold-proof"
VERSION: Final = 1


class Checksums(Frozen):
    """The contents of every table that clients created, as the first verification by a restore found them.

    A later restore of the same backup, by a server of the same series, must find the same. Keys are
    ``database.table``. ``unsound``: the tables that were damaged in the source already, and what the server said.
    """

    server_version: str  # "10.11.19"
    tables: dict[str, int]  # CHECKSUM TABLE, where it is the same each time
    rows: dict[str, str] = Field(default_factory=dict)  # count and sum of the rows, where columns are generated
    unsound: dict[str, str] = Field(default_factory=dict)


class ObjectFacts(Frozen):
    """The facts that differ when an object has changed since it was read."""

    size_bytes: int
    modified_s: float  # seconds since the epoch, by the store's clock


class VerificationRecord(Frozen):
    """The result of the newest verification. ``at``: RFC 3339, UTC. ``by``: the release that verified."""

    format: Literal["snaphold-proof"] = FORMAT
    version: Literal[1] = VERSION
    id: str
    manifest_sha256: str  # of the backup that was verified
    status: Literal[VerificationStatus.PASSED, VerificationStatus.FAILED]
    level: VerificationLevel
    at: str
    seconds: float
    by: str
    reason: str | None = None
    mend_from: str | None = None  # the region that has the damaged objects intact
    checksums: Checksums | None = None
    objects: dict[str, ObjectFacts] = Field(default_factory=dict)  # by name, as they were before they were read

    def dump(self) -> bytes:
        """The bytes that are stored."""
        return self.model_dump_json(indent=1).encode() + b"\n"
