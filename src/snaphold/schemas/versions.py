"""Versions of the API."""

from snaphold.schemas.base import AnswerSchema, Link


class ApiVersion(AnswerSchema):
    """A version of the API."""

    id: str
    status: str
    updated: str
    links: list[Link]


class ApiVersionList(AnswerSchema):
    """The versions of the API."""

    versions: list[ApiVersion]
