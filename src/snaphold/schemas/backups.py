"""Backups (contract, section 2)."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, PlainValidator, StringConstraints, WithJsonSchema, model_validator

from snaphold.model import BackupStatus, CopyStatus, VerificationLevel, VerificationStatus
from snaphold.protocol import MAX_DESCRIPTION
from snaphold.schemas.base import Action, AnswerSchema, Link, Nothing, RequestSchema, Sometimes
from snaphold.schemas.fields import BackupName, GivenReference, NoNul, Reference
from snaphold.schemas.progress import ProgressAnswer


def _zero_or_one(value: object) -> bool:
    if value not in (0, 1, None):
        raise ValueError("must be 0 or 1")
    return bool(value)


Description = Annotated[str, StringConstraints(max_length=MAX_DESCRIPTION), NoNul]
ZeroOrOne = Annotated[
    bool, PlainValidator(_zero_or_one), WithJsonSchema({"enum": [0, 1, False, True, None], "default": 0})
]


class Source(RequestSchema):
    """The source of a backup: an instance or an HA group."""

    type: Literal["instance", "ha"]
    id: GivenReference


class BackupFields(RequestSchema):
    """The backup to take."""

    also_called: ClassVar = {
        "parent_id": (
            *("parent", "parentref", "parentbackup", "parentbackupid", "backupparent", "basedon", "incrementalfrom"),
            *("base", "baseid", "basebackup", "basebackupid", "baseref"),
        ),
        "copy_to": ("copytoregion", "copytoregions", "copyregion", "copyregions"),
        "instance": ("instanceid", "instanceref"),
        "incremental": ("increment", "isincremental"),
    }

    name: BackupName
    instance: Reference | None = None
    description: Description | None = None
    parent_id: GivenReference | None = None
    source: Source | None = None
    incremental: ZeroOrOne = False
    copy_to: list[GivenReference] | None = None
    restore_from: dict[str, Any] | None = None

    @model_validator(mode="before")
    @classmethod
    def _incremental_by_type(cls, value: Any) -> Any:
        """Answers have a ``type``; in a request, the key ``incremental`` asks for an increment."""
        if isinstance(value, dict) and not value.get("incremental") and not value.get("parent_id"):
            for key in ("type", "backup_type"):
                if "increment" in str(value.get(key)).lower():
                    raise ValueError(f'has no key "{key}": the right one is "incremental"')
        return value

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.restore_from is None and not self.instance and self.source is None:
            raise ValueError("needs an instance, or a source")
        given = None if self.source is None else (self.source.type, self.source.id)
        if self.instance and given not in (None, ("instance", self.instance)):
            raise ValueError("names an instance and a source that differ")
        return self


class BackupCreate(RequestSchema):
    """``POST /backups``."""

    backup: BackupFields


class CopyBackup(RequestSchema):
    """The region of a copy, and the copy's name there."""

    also_called: ClassVar = {
        "target_backup_region": ("region", "targetregion"),
        "name": ("backupname",),
    }

    target_backup_region: GivenReference
    name: BackupName | None = None
    description: Description | None = None


class Consolidate(RequestSchema):
    """The full backup to make from an increment and the backups that it depends on."""

    also_called: ClassVar = {
        "name": ("backupname",),
    }

    name: BackupName | None = None


class Verify(RequestSchema):
    """What a verification does: it reads the objects back, or restores them as a scratch server."""

    also_called: ClassVar = {
        "level": ("mode", "type", "lvl", "depth", "kind", "method"),
    }

    level: Literal["objects", "restore"] = "objects"


class BackupAction(Action):
    """``POST /backups/{id}/action``."""

    copy_backup: CopyBackup | None = Field(None, alias="copy-backup")
    consolidate: Consolidate | None = None
    verify: Verify | None = None
    mend: Nothing | None = None
    cancel: Nothing | None = None

    @model_validator(mode="after")
    def _copy_needs_a_region(self) -> Self:
        if "copy_backup" in self.model_fields_set and self.copy_backup is None:
            raise ValueError("copy-backup must be an object")
        return self


class BackupDatastore(AnswerSchema):
    """The datastore of the backed-up instance."""

    type: str
    version: str
    version_id: str


class BackupSource(AnswerSchema):
    """The instance or HA group that the backup was taken from."""

    type: str
    id: str


class Verification(AnswerSchema):
    """The result of the newest verification of a backup. ``at``: when it ended; ``seconds``: how long it took.

    ``reason``: why it failed, or which tables are corrupt, as they were in the source.
    ``mend_from``: the region that has the damaged objects intact; the action ``mend`` repairs the backup from there.
    """

    status: VerificationStatus
    level: VerificationLevel
    at: str
    seconds: float
    reason: Sometimes[str] = None
    mend_from: Sometimes[str] = None


class CopyAnswer(AnswerSchema):
    """A copy in another region. ``id``: the backup's id in that region, once the copy is COMPLETED."""

    region: str
    id: str
    status: CopyStatus
    reason: str | None


class BackupAnswer(AnswerSchema):
    """A backup. ``size`` and ``volume_size`` in GB, ``flavor_ram`` in MB, ``object_size`` in bytes."""

    id: str
    name: str
    description: str | None
    status: BackupStatus
    created: str
    updated: str
    instance_id: str | None
    source: BackupSource
    parent_id: str | None
    datastore: BackupDatastore
    type: Literal["InnoBackupEx", "InnoBackupExIncremental"]
    size: float | None
    volume_size: int
    flavor_ram: int
    is_automated: Literal[0, 1]
    locationRef: str | None  # noqa: N815 - the contract's name
    project_id: str
    object_size: Sometimes[int] = None
    progress: Sometimes[ProgressAnswer] = None
    reason: Sometimes[str] = None
    verification: Sometimes[Verification] = None
    copies: Sometimes[list[CopyAnswer]] = None


class NewBackupAnswer(BackupAnswer):
    """A backup in the answer to its creation, where ``is_automated`` is a boolean."""

    is_automated: bool  # type: ignore[assignment]


class BackupCreated(AnswerSchema):
    """The answer to ``POST /backups``."""

    backup: NewBackupAnswer


class BackupShown(AnswerSchema):
    """One backup."""

    backup: BackupAnswer


class BackupList(AnswerSchema):
    """A page of backups, newest first. The last page has no ``links``."""

    backups: list[BackupAnswer]
    links: Sometimes[list[Link]] = None
