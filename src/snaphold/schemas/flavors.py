"""Flavors: the sizes of servers (contract, section 4)."""

from typing import Annotated

from pydantic import PlainValidator, WithJsonSchema

from snaphold.model import Flavor, flavor_from_reference
from snaphold.schemas.base import AnswerSchema, Link


def _flavor(reference: object) -> Flavor:
    flavor = flavor_from_reference(reference)
    if flavor is None:
        raise ValueError("names no flavor")
    return flavor


FlavorReference = Annotated[
    Flavor,
    PlainValidator(_flavor),
    WithJsonSchema(
        {"anyOf": [{"type": "integer"}, {"type": "string"}], "description": "An id, or an href that ends in one."}
    ),
]


class FlavorAnswer(AnswerSchema):
    """A size of server. ``ram`` in MB. The id is a number here."""

    id: int
    name: str
    ram: int
    links: list[Link]


class FlavorShown(AnswerSchema):
    """One flavor."""

    flavor: FlavorAnswer


class FlavorList(AnswerSchema):
    """All flavors, by id."""

    flavors: list[FlavorAnswer]
