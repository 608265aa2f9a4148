"""Builds the worker of one region."""

import threading

from snaphold.config import Settings
from snaphold.service.deployment import Deployment
from snaphold.wiring.deployment import opened_deployment, opened_saver
from snaphold.wiring.logs import set_up_logs
from snaphold.wiring.peers import PeerRegistry, peer_registry_of
from snaphold.wiring.state_directory import Endpoint, StateDirectory, parse_regions
from snaphold.wiring.stopping import until_stopped
from snaphold.wiring.stores import stores_of
from snaphold.worker.worker import run_worker as work


def run_worker(settings: Settings, state: StateDirectory, region: Endpoint) -> None:
    """Run the worker of one region until SIGTERM or SIGINT."""
    peers = peer_registry_of(settings.peers, state, parse_regions(settings.region), region.name)
    set_up_logs(settings, f"{region.name}-worker")
    with opened_deployment(settings, state, region.name, peers.clients()) as deployment, until_stopped() as stopping:
        work_for(deployment, peers, stopping)


def work_for(deployment: Deployment, peers: PeerRegistry, stopping: threading.Event) -> None:
    """Do the worker's part for a region that is open, until ``stopping`` is set."""
    state, region = peers.state, deployment.region
    with opened_saver(deployment, state) as saver:
        work(deployment, stores_of(state, region), saver, state.worker_lock(region), stopping, peers=peers.stores())
