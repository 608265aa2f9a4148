"""Faults: ``{"<fault>": {"code": N, "message": "..."}}`` (contract, section 8)."""

from collections.abc import Mapping
from typing import Final

from pydantic import BaseModel, create_model

NAMES: Final[Mapping[int, str]] = {
    400: "badRequest",
    401: "unauthorized",
    403: "forbidden",
    404: "itemNotFound",
    405: "badMethod",
    409: "overtaken",
    413: "overLimit",
    415: "badMediaType",
    416: "requestedRangeNotSatisfiable",
    422: "unprocessableEntity",
    500: "instanceFault",
    501: "notImplemented",
    503: "serviceUnavailable",
}


class FaultBody(BaseModel):
    """What went wrong, in words for people."""

    code: int
    message: str


class OverLimitBody(FaultBody):
    """Which limit was exceeded. ``retryAfter``: seconds until a retry may work; absent if waiting does not help."""

    retryAfter: int | None = None  # noqa: N815 - the contract's name


MODELS: Final[Mapping[int, type[BaseModel]]] = {
    code: create_model(
        f"{name[0].upper()}{name[1:]}Fault",
        **{name: (OverLimitBody if code == 413 else FaultBody, ...)},  # type: ignore[call-overload]
    )
    for code, name in NAMES.items()
}
