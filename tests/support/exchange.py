"""Stores reached over HTTP like a peer's (snaphold.peers.store, snaphold.api.peers), with nothing forbidden."""

import asyncio
import itertools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fastapi import FastAPI

from snaphold.api.faults import answer_faults
from snaphold.api.peers.containers import container_routes
from snaphold.peers.store import PeerStores
from snaphold.store.base import Containers, ObjectStore
from tests.api.site import served


@dataclass
class Open:
    """Whoever asks may do everything. Implements ``api.containers.Access``."""

    stores: Containers
    bodies: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(4))

    def reading(self, account: str, name: str) -> ObjectStore:
        """Any object."""
        del name
        return self.stores.of(account)

    def writing(self, account: str, name: str, number: int = 0) -> ObjectStore:
        """Any object."""
        del name, number
        return self.stores.of(account)


class Exchange:
    """A server with any number of stores behind it."""

    def __init__(self) -> None:
        self._behind: dict[str, Open] = {}
        self._numbers = itertools.count()
        self._url = ""
        self._secret_file = Path()

    def containers(self, stores: Containers) -> Containers:
        """The same stores, over HTTP."""
        key = str(next(self._numbers))
        self._behind[key] = Open(stores)
        return PeerStores("IAD", f"{self._url}/{key}", self._secret_file)

    @contextmanager
    def serving(self) -> Iterator[None]:
        """While it serves."""
        app = FastAPI()
        app.include_router(container_routes(self._access_of), prefix="/{key}/peer/v1")
        answer_faults(app)
        with tempfile.TemporaryDirectory() as directory, served(app) as url:
            self._secret_file = Path(directory) / "secret"
            self._secret_file.write_text("secret")
            self._url = url
            yield

    def _access_of(self, key: str) -> Open:
        return self._behind[key]
