"""Datastores and their versions (contract, section 4)."""

from typing import ClassVar

from snaphold.schemas.base import AnswerSchema, Link, RequestSchema
from snaphold.schemas.fields import GivenReference


class DatastoreChoice(RequestSchema):
    """The datastore of a new instance, by names or ids."""

    also_called: ClassVar = {
        "version": ("versionid", "datastoreversion", "datastoreversionid"),
        "type": ("datastoretype", "typeid"),
    }

    type: GivenReference | None = None
    version: GivenReference | None = None


class VersionAnswer(AnswerSchema):
    """A version of a datastore. A backup has its ``id`` as ``version_id``."""

    id: str
    name: str
    datastore: str
    full_version: str
    active: bool
    links: list[Link]


class VersionShown(AnswerSchema):
    """One version of a datastore."""

    version: VersionAnswer


class VersionList(AnswerSchema):
    """The versions of a datastore that hosts can run, newest first."""

    versions: list[VersionAnswer]


class DatastoreAnswer(AnswerSchema):
    """A datastore that hosts can run."""

    id: str
    name: str
    default_version: str
    versions: list[VersionAnswer]
    links: list[Link]


class DatastoreShown(AnswerSchema):
    """One datastore."""

    datastore: DatastoreAnswer


class DatastoreList(AnswerSchema):
    """The datastores that hosts can run."""

    datastores: list[DatastoreAnswer]
