"""Puts the control plane together: the wing that remembers."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from snaphold.catalog import hosts as host_rows
from snaphold.catalog.database import open_catalog
from snaphold.cli.state import StateDirectory
from snaphold.config import Settings
from snaphold.errors import Unauthorized, Unavailable
from snaphold.queue import Queue
from snaphold.service import hosts
from snaphold.service.deployment import Deployment
from snaphold.store.base import Stores


class LocalStoreGate:
    """Whether the local store can be used. Implements ``service.deployment.StoreGate``."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def check(self, account: str) -> None:
        """Every account may use it, while its directory can be written to."""
        place = next((path for path in (self._root / account, self._root) if path.is_dir()), None)
        if place is None or not os.access(place, os.R_OK | os.W_OK | os.X_OK):
            raise Unavailable("The object store does not answer.")


class Objects:
    """The objects of accounts' containers, for ``GET <locationRef>``. Implements ``api.ObjectReader``."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores

    def size(self, account: str, name: str) -> int:
        """The object's length in bytes."""
        return self._stores.of(account).size(name)

    def get(self, account: str, name: str, start: int, length: int | None) -> Iterator[bytes]:
        """The object's bytes."""
        return self._stores.of(account).get(name, start, length)


@contextlib.contextmanager
def opened_deployment(settings: Settings, state: StateDirectory, region: str) -> Iterator[Deployment]:
    """One region's record and queue, brought up to date, with the local store.

    Raises:
        SetupError: the catalog cannot be opened, or was written by a newer release.
    """
    state.region(region).mkdir(mode=0o700, parents=True, exist_ok=True)
    state.store(region).mkdir(mode=0o700, parents=True, exist_ok=True)
    catalog = open_catalog(state.catalog(region))
    try:
        with catalog.writing() as tx:
            deployment_id = host_rows.deployment_id(tx, region)
        yield Deployment(
            catalog=catalog,
            queue=Queue(catalog),
            settings=settings,
            region=region,
            deployment_id=deployment_id,
            store_gate=LocalStoreGate(state.store(region)),
        )
    finally:
        catalog.close()


def make_local_token(deployment: Deployment, state: StateDirectory) -> None:
    """See that the agent of this machine has a token which the region's record knows."""
    path = state.agent_token(deployment.region)
    with contextlib.suppress(FileNotFoundError, UnicodeDecodeError, Unauthorized):
        hosts.authenticate_host(deployment, path.read_text("ascii").strip())
        return
    token = hosts.add_host(deployment, socket.gethostname())
    new = path.with_suffix(".new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(token + "\n")
    new.rename(path)
