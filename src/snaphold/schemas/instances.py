"""Instances (contract, sections 3 and 4)."""

from typing import Annotated, ClassVar, Final, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from snaphold.model import InstanceStatus
from snaphold.schemas.base import Action, AnswerSchema, Link, Nothing, RequestSchema, Sometimes
from snaphold.schemas.databases import Databases
from snaphold.schemas.datastores import DatastoreChoice
from snaphold.schemas.fields import GivenReference, InstanceName, number_from_digits
from snaphold.schemas.flavors import FlavorReference
from snaphold.schemas.progress import ProgressAnswer
from snaphold.schemas.users import Users

MYSQL_PORT: Final = 3306  # the port that clients assume
MAX_VOLUME_GB: Final = 65_536

VolumeSize = Annotated[
    int,
    Field(ge=1, le=MAX_VOLUME_GB, description="GB, as a number or as digits in a string"),
    BeforeValidator(number_from_digits),
]


def _last_part(reference: str) -> str:
    return reference.rstrip("/").rsplit("/", 1)[-1]


class Volume(RequestSchema):
    """The volume of an instance."""

    size: VolumeSize


class RestorePoint(RequestSchema):
    """The backup to restore a new instance from."""

    also_called: ClassVar = {
        "backupRef": ("backup", "backupid", "id"),
    }

    backup_ref: Annotated[GivenReference, AfterValidator(_last_part)] = Field(alias="backupRef")


class InstanceFields(RequestSchema):
    """The instance to create."""

    also_called: ClassVar = {
        "restorePoint": ("restore", "restorefrom", "backup", "backupref", "backupid"),
        "flavorRef": ("flavor", "flavorid"),
        "volume": ("size", "volumesize"),
        "replica_of": ("slaveof", "masterid"),
        "datastore": ("datastoreversion", "datastoretype"),
    }

    flavor: FlavorReference = Field(alias="flavorRef")
    name: InstanceName | None = None
    volume: Volume | None = None
    datastore: DatastoreChoice | None = None
    databases: Databases | None = None
    users: Users | None = None
    restore_point: RestorePoint | None = Field(None, alias="restorePoint")
    replica_of: GivenReference | None = None


class InstanceCreate(RequestSchema):
    """``POST /instances``."""

    instance: InstanceFields


class InstanceChangeFields(RequestSchema):
    """The new name of an instance."""

    name: InstanceName


class InstanceChange(RequestSchema):
    """``PATCH /instances/{id}``."""

    instance: InstanceChangeFields


class Resize(RequestSchema):
    """A larger volume, or another flavor."""

    also_called: ClassVar = {
        "flavorRef": ("flavor", "flavorid"),
        "volume": ("size", "volumesize"),
    }

    volume: Volume | None = None
    flavor: FlavorReference | None = Field(None, alias="flavorRef")

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.volume is None) == (self.flavor is None):
            raise ValueError("needs a volume or a flavorRef, and not both")
        return self


class InstanceAction(Action):
    """``POST /instances/{id}/action``."""

    restart: Nothing | None = None
    resize: Resize | None = None
    stop: Nothing | None = None
    start: Nothing | None = None
    reset_status: Nothing | None = None

    @model_validator(mode="after")
    def _resize_needs_a_size(self) -> Self:
        if "resize" in self.model_fields_set and self.resize is None:
            raise ValueError("resize must be an object")
        return self


class InstanceFlavor(AnswerSchema):
    """The flavor of an instance. The id is a string here."""

    id: str
    links: list[Link]


class VolumeAnswer(AnswerSchema):
    """Sizes in GB. ``used`` is absent until it has been measured."""

    size: int
    used: Sometimes[float] = None


class InstanceDatastore(AnswerSchema):
    """The datastore of an instance."""

    type: str
    version: str


class Address(AnswerSchema):
    """An address that the instance listens on."""

    address: str
    type: str


class InstanceAnswer(AnswerSchema):
    """An instance. ``port`` is absent when it is 3306.

    ``hostname`` is the name or address that clients connect to once the instance is ACTIVE. It is chosen when the
    instance is created, and never changes. It is null only for an instance that an earlier release began to create and
    that never ran.
    """

    id: str
    name: str
    status: InstanceStatus
    operating_status: str
    created: str
    updated: str
    flavor: InstanceFlavor
    volume: VolumeAnswer
    datastore: InstanceDatastore
    region: str
    hostname: str | None
    ip: list[str]
    addresses: list[Address]
    links: list[Link]
    port: Sometimes[int] = None
    progress: Sometimes[ProgressAnswer] = None
    reason: Sometimes[str] = None


class InstanceShown(AnswerSchema):
    """One instance."""

    instance: InstanceAnswer


class InstanceList(AnswerSchema):
    """A page of instances, newest first. The last page has no ``links``."""

    instances: list[InstanceAnswer]
    links: Sometimes[list[Link]] = None
