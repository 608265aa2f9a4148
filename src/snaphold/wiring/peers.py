"""Builds the clients of a region's peers: the other regions of its state directory, and those of other deployments."""

import hmac
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from snaphold.config import PeerSettings
from snaphold.errors import SetupError
from snaphold.peers.region import PeerClient
from snaphold.peers.store import PeerStores
from snaphold.store.base import Containers
from snaphold.store.local import LocalStores
from snaphold.store.retrying import RetryingContainers, RetryPolicy
from snaphold.wiring.secrets import peer_token, read_secret
from snaphold.wiring.state_directory import Endpoint, StateDirectory
from snaphold.wiring.stores import stores_of

_LEAST_SECRET: Final = 20  # characters
_RETRY_POLICY: Final = RetryPolicy(attempts=3)  # for a peer's store; the copy itself is retried later


@dataclass(frozen=True, kw_only=True)
class PeerRegistry:
    """The peers of one region. Copies go to these and to no other region.

    ``local``: the other regions of the same state directory. ``remote``: regions of other deployments, by name.
    """

    state: StateDirectory
    region: str
    local: Sequence[Endpoint]
    remote: Mapping[str, PeerSettings]

    def clients(self) -> dict[str, PeerClient]:
        """A client of each peer's API, by region."""
        local = {
            other.name: PeerClient(other.name, other.url, self.state.peer_token(other.name)) for other in self.local
        }
        return local | {name: PeerClient(name, peer.url, peer.secret_file) for name, peer in self.remote.items()}

    def stores(self) -> dict[str, Containers]:
        """The store that copies to each peer are written to, by region."""
        found: dict[str, Containers] = {other.name: stores_of(self.state, other.name) for other in self.local}
        for name, peer in self.remote.items():
            if peer.store_dir is not None:
                found[name] = RetryingContainers(LocalStores(peer.store_dir))
            else:
                found[name] = RetryingContainers(PeerStores(name, peer.url, peer.secret_file), _RETRY_POLICY)
        return found

    def regions_of(self, secret: str) -> AbstractSet[str]:
        """The regions that share this secret with us. Implements ``api.KnownPeers``."""
        given = sha256(secret.encode()).digest()
        known = [
            (peer_token(self.state, self.region), {other.name for other in self.local}),
            *((read_secret(peer.secret_file), {name}) for name, peer in self.remote.items()),
        ]
        matching = [
            regions for kept, regions in known if hmac.compare_digest(sha256(kept.encode()).digest(), given) and kept
        ]
        return frozenset().union(*matching)


def peer_registry_of(
    remote: Mapping[str, PeerSettings], state: StateDirectory, regions: Sequence[Endpoint], name: str
) -> PeerRegistry:
    """The peers of the region ``name``, which is one of ``regions``.

    Raises:
        SetupError: a remote peer has the name of a local region, or its secret cannot be read or is too short.
    """
    served = {region.name.upper() for region in regions}
    for peer, settings in remote.items():
        if peer.upper() in served:
            raise SetupError(f"the peer {peer} is a region of this state directory already")
        if len(read_secret(settings.secret_file)) < _LEAST_SECRET:
            raise SetupError(
                f"the secret of peer {peer}, {settings.secret_file}, cannot be read or has fewer than "
                f"{_LEAST_SECRET} characters"
            )
    local = [other for other in regions if other.name != name]
    return PeerRegistry(state=state, region=name, local=local, remote=remote)
