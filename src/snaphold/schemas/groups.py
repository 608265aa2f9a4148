"""HA groups (contract, section 5)."""

from typing import Annotated, Any, ClassVar

from pydantic import Field

from snaphold.schemas.base import Action, AnswerSchema, Nothing, RequestSchema
from snaphold.schemas.datastores import DatastoreChoice
from snaphold.schemas.fields import InstanceName
from snaphold.schemas.flavors import FlavorReference
from snaphold.schemas.instances import Volume


class Member(RequestSchema):
    """One server of a group."""

    also_called: ClassVar = {
        "flavorRef": ("flavor", "flavorid"),
        "volume": ("size", "volumesize"),
    }

    flavor: FlavorReference = Field(alias="flavorRef")
    volume: Volume
    name: InstanceName | None = None


class GroupFields(RequestSchema):
    """The HA group to create."""

    name: InstanceName
    datastore: DatastoreChoice | None = None
    replica_source: Annotated[list[Member], Field(min_length=1, max_length=1)]
    replicas: Annotated[list[Member], Field(min_length=1, max_length=2)]


class GroupCreate(RequestSchema):
    """``POST /ha``."""

    ha: GroupFields


class GroupAction(Action):
    """``POST /ha/{id}/action``."""

    add_replica: dict[str, Any] | None = None
    remove_replica: Any = None
    restart: Nothing | None = None


class GroupList(AnswerSchema):
    """HA groups."""

    ha_instances: list[dict[str, Any]]
