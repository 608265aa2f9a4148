"""The secrets that lie in a state directory: the agent's token and the regions' peer tokens."""

import contextlib
import os
import secrets
import socket
from pathlib import Path

from snaphold.errors import Unauthorized
from snaphold.service import host_registry
from snaphold.service.deployment import Deployment
from snaphold.wiring.state_directory import StateDirectory


def make_local_token(deployment: Deployment, state: StateDirectory) -> None:
    """Give the agent of this machine a token, unless it has one that the region's catalog knows."""
    path = state.agent_token(deployment.region)
    with contextlib.suppress(FileNotFoundError, UnicodeDecodeError, Unauthorized):
        host_registry.authenticate_host(deployment, path.read_text("ascii").strip())
        return
    _write_secret(path, host_registry.add_host(deployment, socket.gethostname()))


def peer_token(state: StateDirectory, region: str) -> str:
    """The token by which the other regions of this state directory authenticate to this one; made at the first call."""
    path = state.peer_token(region)
    with contextlib.suppress(FileNotFoundError):
        if kept := path.read_text("ascii").strip():
            return kept
    token = secrets.token_urlsafe(32)
    _write_secret(path, token)
    return token


def read_secret(path: Path) -> str:
    """The secret in a file, without white space around it; empty when the file cannot be read."""
    try:
        return path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _write_secret(path: Path, token: str) -> None:
    """Write it durably and atomically: a file cut short would be an empty secret."""
    new = path.with_suffix(".new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(token + "\n")
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)
