"""Builds the API of one region, and with it, on request, the region's worker."""

import threading

from snaphold.api import create_app
from snaphold.api.connections import bounds_of
from snaphold.config import Settings
from snaphold.engines.password_hashes import PASSWORD_HASHES
from snaphold.store.object_reader import StoreObjectReader
from snaphold.wiring.deployment import opened_deployment, opened_identity
from snaphold.wiring.http_server import serve
from snaphold.wiring.logs import set_up_logs
from snaphold.wiring.peers import peer_registry_of
from snaphold.wiring.secrets import make_local_token, peer_token
from snaphold.wiring.state_directory import Endpoint, StateDirectory, parse_regions
from snaphold.wiring.stores import stored_backups_of, stores_of
from snaphold.wiring.worker import work_for


def run_api(
    settings: Settings, state: StateDirectory, region: Endpoint, *, with_worker: bool, with_local_agent: bool
) -> None:
    """Run the API of one region until SIGTERM or SIGINT.

    ``with_worker``: run the region's worker in a thread of this process. ``with_local_agent``: make a token for the
    agent of this machine before the API answers its first request.
    """
    regions = parse_regions(settings.region)
    set_up_logs(settings, region.name)
    stopping = threading.Event()
    peers = peer_registry_of(settings.peers, state, regions, region.name)
    peer_token(state, region.name)  # the other regions of this state directory read it
    with (
        state.answering(region.name),
        opened_deployment(settings, state, region.name, peers.clients()) as deployment,
        opened_identity(settings, state) as identity,
    ):
        if with_local_agent:
            make_local_token(deployment, state)
        stores = stores_of(state, region.name)
        app = create_app(
            deployment,
            identity,
            regions={endpoint.name: endpoint.url for endpoint in regions},
            object_reader=StoreObjectReader(stores),
            stored_backups=stored_backups_of(state, region.name),
            password_hashes=PASSWORD_HASHES,
            containers=stores.of,
            known_peers=peers,
            ending=stopping,
        )
        serve(
            app,
            region,
            bounds_of(settings),
            stopping,
            (lambda: work_for(deployment, peers, stopping)) if with_worker else None,
        )
