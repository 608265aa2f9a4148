"""Builds the application of one region."""

import threading
from collections.abc import Callable, Mapping
from typing import Final

from snaphold import __version__
from snaphold.api import (
    backups,
    databases,
    datastores,
    flavors,
    ha_groups,
    instances,
    limits,
    logins,
    objects,
    schedules,
    users,
    versions,
)
from snaphold.api.document import DescribedAPI, add_docs_page
from snaphold.api.faults import answer_faults
from snaphold.api.hosts import routes as hosts
from snaphold.api.links import Links
from snaphold.api.middleware import RequestMiddleware
from snaphold.api.peers import routes as peers
from snaphold.api.request_context import KnownPeers, PasswordHash, RequestContext
from snaphold.api.stores import Container, ObjectReader, StoredBackups
from snaphold.identity.base import Identity
from snaphold.service.deployment import Deployment

_CLIENTS_ROUTES: Final = (
    *(versions, logins, backups, instances, databases, users, flavors, datastores, limits),
    *(schedules, ha_groups, objects),
)


def described_api() -> DescribedAPI:
    """All routes and their OpenAPI document, without the context that they need to answer."""
    app = DescribedAPI(
        title="snaphold",
        version=__version__,
        description="Backups of database instances, behind the Cloud Databases v1.0 API.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    for part in (*_CLIENTS_ROUTES, hosts, peers):
        app.router.routes.extend(part.router.routes)  # include_router would do more work at each request
    return app


def create_app(
    deployment: Deployment,
    identity: Identity,
    *,
    regions: Mapping[str, str],
    object_reader: ObjectReader,
    stored_backups: StoredBackups,
    password_hashes: Mapping[str, PasswordHash],
    ending: threading.Event | None = None,
    containers: Callable[[str], Container],
    known_peers: KnownPeers | None = None,
) -> DescribedAPI:
    """Build the application of the deployment's region.

    ``regions``: the name and the endpoint (``http://host:port``) of every region that shares the identity, this one
    included, whose endpoint ``public_url`` in the settings replaces. ``object_reader`` serves ``GET <locationRef>``.
    ``stored_backups`` checks reported backups, without retries.
    ``password_hashes``: for each datastore, the function that hashes the passwords of database users for its engine.
    ``containers``: the container of an account, for the regions in ``known_peers``. ``ending``: agents' long polls end
    within half a second after it is set.
    """
    endpoint = (deployment.settings.public_url or regions[deployment.region]).rstrip("/")
    app = described_api()
    app.state.context = RequestContext(
        deployment=deployment,
        identity=identity,
        objects=object_reader,
        stored_backups=stored_backups,
        regions={**regions, deployment.region: endpoint},
        links=Links(endpoint=endpoint),
        ending=ending or threading.Event(),
        containers=containers,
        password_hashes=password_hashes,
        known_peers=known_peers,
    )
    add_docs_page(app)
    answer_faults(app)
    app.add_middleware(RequestMiddleware)
    return app
