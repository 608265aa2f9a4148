"""Puts the control plane together: the wing that remembers."""

import contextlib
import os
import queue
import secrets
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

import structlog

from snaphold.catalog import hosts as host_rows
from snaphold.catalog.database import open_catalog
from snaphold.cli.state import StateDirectory
from snaphold.config import Settings
from snaphold.errors import Forbidden, Unauthorized, Unavailable
from snaphold.queue import Queue
from snaphold.service import host_registry
from snaphold.service.deployment import Deployment, Peer, StoreGate
from snaphold.store.base import CONTAINER, Stores

_REST_S: Final = 10.0  # before a store that was silent is asked again

_log = structlog.get_logger(__name__)


class LocalStoreGate:
    """Whether the local store can be used. Implements ``service.deployment.StoreGate``."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def check(self, account: str, *, write: bool) -> None:
        """Look at the directories that the account's objects go to, as far as they are there.

        One that its own mode closes to its owner refuses, to root as well: so an operator shuts an account out. A file
        system that is mounted read-only refuses writes.

        Raises:
            Forbidden: the account, or everybody, is shut out.
            Unavailable: there is no store, or its disk has an error.
        """
        try:
            for place in (self._root, self._root / account, self._root / account / CONTAINER):
                if place != self._root and not place.exists():
                    return
                if not place.is_dir():
                    raise Unavailable("The object store does not answer.")
                if not _allows(place, stat.S_IRUSR | stat.S_IXUSR, os.R_OK | os.X_OK):
                    raise Forbidden("The object store refuses this account.")
                if write and not _allows(place, stat.S_IWUSR, os.W_OK):
                    raise Forbidden("The object store can only be read by this account.")
        except PermissionError as error:
            raise Forbidden("The object store refuses this account.") from error
        except OSError as error:
            raise Unavailable("The object store does not answer.") from error


def _allows(place: Path, mode: int, access: int) -> bool:
    return place.stat().st_mode & mode == mode and os.access(place, access)


class CircuitBreaker:
    """Another gate, waited for no longer than ``timeout_s``: a store that hangs must not hang its callers.

    One that was silent is taken to be so by everybody for ``rest_s`` seconds; then one caller tries again, while the
    others are still told so. A thread that hangs with the store stays until the store lets it go.
    ``passed_s`` is the clock, of seconds that only grow.
    """

    def __init__(
        self, gate: StoreGate, *, timeout_s: float, rest_s: float, passed_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._gate = gate
        self._timeout_s = timeout_s
        self._rest_s = rest_s
        self._passed_s = passed_s
        self._closed_until_s = 0.0
        self._lock = threading.Lock()

    def check(self, account: str, *, write: bool) -> None:
        """As the other gate does. Raises ``Unavailable`` too when it is silent, or was a moment ago."""
        with self._lock:
            if self._passed_s() < self._closed_until_s:
                raise Unavailable("The object store does not answer.")
            trial = self._closed_until_s > 0
            if trial:
                self._closed_until_s = self._passed_s() + self._rest_s
        answer: queue.Queue[Exception | None] = queue.Queue()
        threading.Thread(target=_ask, args=(self._gate, account, write, answer), name="store-gate", daemon=True).start()
        try:
            error = answer.get(timeout=self._timeout_s)
        except queue.Empty:
            with self._lock:
                self._closed_until_s = self._passed_s() + self._rest_s
            _log.warning("store.silent", account=account, asked_again_in_s=self._rest_s)
            raise Unavailable("The object store does not answer.") from None
        if trial:
            with self._lock:
                self._closed_until_s = 0.0
        if error is not None:
            raise error


def _ask(gate: StoreGate, account: str, write: bool, answer: "queue.Queue[Exception | None]") -> None:  # noqa: FBT001
    try:
        gate.check(account, write=write)
    except Exception as error:  # noqa: BLE001 - raised again by whoever waits
        answer.put(error)
    else:
        answer.put(None)


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
def opened_deployment(
    settings: Settings, state: StateDirectory, region: str, peers: Mapping[str, Peer] = MappingProxyType({})
) -> Iterator[Deployment]:
    """One region's record and queue, brought up to date, with the local store. ``peers``: where copies can go.

    Raises:
        SetupError: the catalog cannot be opened, or was written by a newer release; there is no store.
    """
    state.require_store(region)
    state.make_store(region)
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
            peers=peers,
            store_gate=CircuitBreaker(
                LocalStoreGate(state.store(region)), timeout_s=settings.store_timeout_s, rest_s=_REST_S
            ),
        )
    finally:
        catalog.close()


def make_local_token(deployment: Deployment, state: StateDirectory) -> None:
    """See that the agent of this machine has a token which the region's record knows."""
    path = state.agent_token(deployment.region)
    with contextlib.suppress(FileNotFoundError, UnicodeDecodeError, Unauthorized):
        host_registry.authenticate_host(deployment, path.read_text("ascii").strip())
        return
    _write_secret(path, host_registry.add_host(deployment, socket.gethostname()))


def peer_token(state: StateDirectory, region: str) -> str:
    """What other regions verify themselves to this one by; made the first time."""
    path = state.peer_token(region)
    with contextlib.suppress(FileNotFoundError):
        if kept := path.read_text("ascii").strip():
            return kept
    token = secrets.token_urlsafe(32)
    _write_secret(path, token)
    return token


def _write_secret(path: Path, token: str) -> None:
    """Durably, and whole or not at all: an empty secret would be no secret."""
    new = path.with_suffix(".new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(token + "\n")
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)
