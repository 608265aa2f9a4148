"""Which regions this one is joined with: the others of its state directory, and those of other deployments."""

import hmac
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from snaphold.cli.control import peer_token
from snaphold.cli.state import Endpoint, StateDirectory
from snaphold.cli.stores import stores_of
from snaphold.config import PeerSettings
from snaphold.errors import SetupError
from snaphold.peers.region import Peer
from snaphold.peers.store import PeerStores
from snaphold.store.base import Containers
from snaphold.store.local import LocalStores
from snaphold.store.retrying import RetryingContainers, RetryPolicy

_LEAST_SECRET: Final = 20  # characters
_RETRY_POLICY: Final = RetryPolicy(attempts=3)  # with a peer's store; whoever copies comes again later


@dataclass(frozen=True, kw_only=True)
class PeerRegistry:
    """The peers of one region: ``beside`` are served from the same state directory, ``apart`` are other deployments.

    Copies go to these and to no others.
    """

    state: StateDirectory
    region: str
    beside: Sequence[Endpoint]
    apart: Mapping[str, PeerSettings]

    def services(self) -> dict[str, Peer]:
        """Their APIs, by region."""
        near = {other.name: Peer(other.name, other.url, self.state.peer_token(other.name)) for other in self.beside}
        return near | {name: Peer(name, peer.url, peer.secret_file) for name, peer in self.apart.items()}

    def stores(self) -> dict[str, Containers]:
        """Where copies are put, by region."""
        found: dict[str, Containers] = {other.name: stores_of(self.state, other.name) for other in self.beside}
        for name, peer in self.apart.items():
            if peer.store_dir is not None:
                found[name] = RetryingContainers(LocalStores(peer.store_dir))
            else:
                found[name] = RetryingContainers(PeerStores(name, peer.url, peer.secret_file), _RETRY_POLICY)
        return found

    def regions_of(self, secret: str) -> AbstractSet[str]:
        """The regions that whoever shows this secret may speak for. Implements ``api.KnownPeers``."""
        given = sha256(secret.encode()).digest()
        known = [
            (peer_token(self.state, self.region), {other.name for other in self.beside}),
            *((read_secret(peer.secret_file), {name}) for name, peer in self.apart.items()),
        ]
        fitting = [
            regions for kept, regions in known if hmac.compare_digest(sha256(kept.encode()).digest(), given) and kept
        ]
        return frozenset().union(*fitting)


def peer_registry_of(
    apart: Mapping[str, PeerSettings], state: StateDirectory, regions: Sequence[Endpoint], name: str
) -> PeerRegistry:
    """The peers of this region.

    Raises:
        SetupError: one of them is served here too, or its secret is missing or too short.
    """
    served = {region.name.upper() for region in regions}
    for peer, settings in apart.items():
        if peer.upper() in served:
            raise SetupError(f"the peer {peer} is a region of this state directory already")
        if len(read_secret(settings.secret_file)) < _LEAST_SECRET:
            raise SetupError(
                f"the secret of peer {peer}, {settings.secret_file}, cannot be read or has fewer than "
                f"{_LEAST_SECRET} characters"
            )
    beside = [other for other in regions if other.name != name]
    return PeerRegistry(state=state, region=name, beside=beside, apart=apart)


def read_secret(path: Path) -> str:
    """What stands in the file; nothing where it cannot be read."""
    try:
        return path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
