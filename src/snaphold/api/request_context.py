"""What the routes of one region need to answer a request."""

import asyncio
import threading
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Annotated, Final, Protocol

from fastapi import Depends, Request

from snaphold.api.links import Links
from snaphold.api.stores import Container, ObjectReader, StoredBackups
from snaphold.api.token_cache import TokenCache
from snaphold.identity.base import Identity
from snaphold.service.deployment import Deployment

_MAX_PEER_BODIES: Final = 4  # in memory at a time, each at most a segment

PasswordHash = Callable[[str], str]


class KnownPeers(Protocol):
    """The regions of other deployments that this region works with."""

    def regions_of(self, secret: str) -> AbstractSet[str]:
        """The regions that have this secret; empty if there are none. Takes the same time for every secret."""


@dataclass(frozen=True, kw_only=True)
class RequestContext:
    """The parts of one region's application.

    ``regions``: each region's name and endpoint. ``ending``: set when long polls must end. ``password_hashes``: by
    datastore, the function that hashes passwords of database users for it.
    """

    deployment: Deployment
    identity: Identity
    objects: ObjectReader
    stored_backups: StoredBackups
    regions: Mapping[str, str]
    links: Links
    ending: threading.Event
    containers: Callable[[str], Container]
    password_hashes: Mapping[str, PasswordHash]
    known_peers: KnownPeers | None = None
    peer_bodies: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_MAX_PEER_BODIES))
    token_cache: TokenCache = field(default_factory=TokenCache)


def context_of(request: Request) -> RequestContext:
    """The context that ``create_app`` has built."""
    context = request.app.state.context
    if not isinstance(context, RequestContext):
        raise TypeError("the application was not made by create_app")
    return context


Context = Annotated[RequestContext, Depends(context_of)]
