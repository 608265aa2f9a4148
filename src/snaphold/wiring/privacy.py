"""Which paths of this machine must not appear in what tenants are told."""

from snaphold.config import Settings
from snaphold.reasons import keep_private
from snaphold.wiring.state_directory import StateDirectory


def keep_paths_private(settings: Settings, state: StateDirectory) -> None:
    """Keep every path of the settings out of the reasons that tenants are told. Call it once when a process starts."""
    peers = [path for peer in settings.peers.values() for path in (peer.store_dir, peer.secret_file)]
    named = [settings.store_dir, settings.engine_dir, settings.encryption_key_file, *peers]
    keep_private([state.path, *(path and path.absolute() for path in named)])
