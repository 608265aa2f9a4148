"""One region's application, put together."""

import threading
from collections.abc import Callable, Mapping

from snaphold import __version__
from snaphold.api import (
    agents,
    backups,
    databases,
    ha_groups,
    instances,
    logins,
    objects,
    offers,
    peers,
    schedules,
    versions,
)
from snaphold.api.context import Container, KnownPeers, ObjectReader, RequestContext
from snaphold.api.document import DescribedAPI, add_docs_page
from snaphold.api.faults import answer_faults
from snaphold.api.links import Links
from snaphold.api.middleware import RequestMiddleware
from snaphold.identity.base import Identity
from snaphold.service.deployment import Deployment

_ROUTERS = (versions, logins, backups, instances, databases, offers, schedules, ha_groups, objects, agents, peers)


def described_api() -> DescribedAPI:
    """All routes and the document that tells of them, without what they need to answer."""
    app = DescribedAPI(
        title="snaphold",
        version=__version__,
        description="Backups of database instances, behind the Cloud Databases v1.0 API.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    for part in _ROUTERS:
        app.router.routes.extend(part.router.routes)  # as include_router, less what it does at each request
    return app


def create_app(
    deployment: Deployment,
    identity: Identity,
    *,
    regions: Mapping[str, str],
    object_reader: ObjectReader,
    ending: threading.Event | None = None,
    containers: Callable[[str], Container],
    known_peers: KnownPeers | None = None,
) -> DescribedAPI:
    """Build the application of ``deployment``'s region.

    ``regions``: the name and the endpoint (``http://host:port``) of every region that identity is shared with, this
    one included; ``public_url`` in the settings replaces this one's. ``object_reader`` answers ``GET <locationRef>``.
    ``containers``: each account's, for other regions, which are ``known_peers``; None: there are none.
    ``ending``: set it when the process is told to end, and agents' long polls end within half a second.
    """
    endpoint = (deployment.settings.public_url or regions[deployment.region]).rstrip("/")
    app = described_api()
    app.state.context = RequestContext(
        deployment=deployment,
        identity=identity,
        objects=object_reader,
        regions={**regions, deployment.region: endpoint},
        links=Links(endpoint=endpoint),
        ending=ending or threading.Event(),
        containers=containers,
        known_peers=known_peers,
    )
    add_docs_page(app)
    answer_faults(app)
    app.add_middleware(RequestMiddleware)
    return app
