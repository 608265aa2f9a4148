"""Limits of an account (contract, section 8)."""

from typing import Literal

from snaphold.schemas.base import AnswerSchema


class AbsoluteLimits(AnswerSchema):
    """The limits that do not depend on time. 0: no limit, except for ``max_page`` and ``max_body_bytes``.

    ``max_volumes``: the total size of the account's volumes in GB.
    """

    verb: Literal["ABSOLUTE"]
    max_backups: int
    max_running_backups: int
    max_instances: int
    max_volumes: int
    max_page: int
    max_body_bytes: int


class RateLimit(AnswerSchema):
    """How many requests of a kind are accepted per minute (``value``), and how many more are accepted now.

    ``nextAvailable``: when the next one is accepted.
    """

    verb: str
    uri: str
    value: int
    remaining: int
    unit: Literal["MINUTE"]
    nextAvailable: str  # noqa: N815 - the contract's name


class LimitList(AnswerSchema):
    """All limits: the absolute ones first, then the rates."""

    limits: list[AbsoluteLimits | RateLimit]
