"""The layout of a state directory, and the locks that processes hold on it."""

import contextlib
import fcntl
import os
import re
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from snaphold.errors import SetupError

_REGION: Final = re.compile(r"(?P<name>[A-Za-z][A-Za-z0-9_-]{0,31})=(?P<where>\S+)")


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A region's name, and the address on which its API listens."""

    name: str
    address: str
    port: int

    @property
    def url(self) -> str:
        """The URL of the API, without a path or a final slash."""
        return f"http://{f'[{self.address}]' if ':' in self.address else self.address}:{self.port}"

    def __str__(self) -> str:
        """The form of the setting: NAME=ADDRESS:PORT."""
        return f"{self.name}={self.url.removeprefix('http://')}"


def parse_regions(texts: Sequence[str]) -> list[Endpoint]:
    """Parse ``NAME=ADDRESS:PORT`` settings.

    Raises:
        SetupError: a setting has another form, none is given, or two share a name or an address and port.
    """
    regions = [_parse_region(text) for text in texts]
    if not regions:
        raise SetupError("no region was given (--region NAME=ADDRESS:PORT)")
    if len({region.name.upper() for region in regions}) < len(regions):
        raise SetupError("two regions have the same name")
    if len({(region.address, region.port) for region in regions}) < len(regions):
        raise SetupError("two regions have the same address and port")
    return regions


def _parse_region(text: str) -> Endpoint:
    match = _REGION.fullmatch(text)
    address, _, port = match["where"].rpartition(":") if match else ("", "", "")
    if match is None or not address or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise SetupError(f"the region {text!r} is not of the form NAME=ADDRESS:PORT")
    return Endpoint(name=match["name"], address=address.strip("[]"), port=int(port))


@dataclass(frozen=True)
class StateDirectory:
    """A state directory. ``store_root``: the directory of the stores; None: each store is in its region's part."""

    path: Path
    store_root: Path | None = None

    @property
    def identity(self) -> Path:
        """Accounts, users and tokens: one database for all regions."""
        return self.path / "identity.db"

    @property
    def instances(self) -> Path:
        """The database servers' directories."""
        return self.path / "instances"

    def region(self, name: str) -> Path:
        """The directory of one region."""
        return self.path / "regions" / name

    def catalog(self, region: str) -> Path:
        """The region's catalog."""
        return self.region(region) / "catalog.db"

    def store(self, region: str) -> Path:
        """The region's object store.

        Raises:
            SetupError: the store was set up with ``store_root``, which is not given now. The default would be empty.
        """
        if self.store_root is not None:
            return self.store_root / region
        with contextlib.suppress(FileNotFoundError):
            elsewhere = self._elsewhere(region).read_text().strip()
            raise SetupError(
                f"the store of {region} lies in {elsewhere}: say --store-dir (or remove {self._elsewhere(region)})"
            )
        return self.region(region) / "store"

    def _elsewhere(self, region: str) -> Path:
        """The file with the ``store_root`` that the region was last used with."""
        return self.region(region) / "store-dir"

    def agent_token(self, region: str) -> Path:
        """The file with the token by which the agent of this machine authenticates to the region's API."""
        return self.region(region) / "agent.token"

    def peer_token(self, region: str) -> Path:
        """The file with the token by which the other regions of this directory authenticate to this region's API."""
        return self.region(region) / "peer.token"

    def region_names(self) -> list[str]:
        """The names of all regions in this directory, sorted."""
        with contextlib.suppress(FileNotFoundError):
            return sorted(entry.name for entry in (self.path / "regions").iterdir() if entry.is_dir())
        return []

    def make(self, regions: Sequence[str] = ()) -> None:
        """Create the directory and these regions' parts as far as they are missing.

        Raises:
            SetupError: they cannot be created or written to; or as ``store`` raises it.
        """
        try:
            self._check_store_root(regions)
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / "regions").mkdir(mode=0o700, exist_ok=True)
            for region in regions:
                self.region(region).mkdir(mode=0o700, exist_ok=True)
                self.store(region)
                if self.store_root is not None:
                    self._elsewhere(region).write_text(f"{self.store_root}\n")
        except FileExistsError as error:
            raise SetupError(f"{error.filename} is in the way: it is no directory") from error
        except OSError as error:
            raise SetupError(f"the state directory cannot be made: {error.filename}: {error.strerror}") from error
        if not os.access(self.path, os.R_OK | os.W_OK | os.X_OK):
            raise SetupError(f"the state directory {self.path} cannot be written to")

    def _check_store_root(self, regions: Sequence[str]) -> None:
        """Raise ``SetupError`` before anything is made when a store cannot be a directory."""
        if self.store_root is None:
            return
        for path in (self.store_root, *(self.store_root / region for region in regions)):
            existing = next((each for each in (path, *path.parents) if each.exists()), path)
            if not existing.is_dir():
                raise SetupError(f"{existing} is not a directory, so no store can be made there (--store-dir)")

    def make_store(self, region: str) -> None:
        """Create the region's store if it is missing. Raises ``SetupError`` when it cannot be created."""
        try:
            self.store(region).mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise SetupError(f"the store of {region} cannot be made: {error.filename}: {error.strerror}") from error

    @property
    def is_set_up(self) -> bool:
        """Whether ``make`` has set this directory up."""
        return (self.path / "regions").is_dir()

    @property
    def not_set_up(self) -> str:
        """The message for an operator who named a directory that is not set up."""
        return f"{self.path} is no state directory: no service has been set up in it (snaphold serve)"

    def require(self) -> None:
        """Raise ``SetupError`` unless the directory is set up. Creates nothing."""
        if not self.is_set_up:
            raise SetupError(self.not_set_up)

    def require_store(self, region: str) -> None:
        """Raise ``SetupError`` when the store is below ``store_root`` and does not exist. Creates nothing."""
        if self.store_root is not None and not self.store(region).is_dir():
            raise SetupError(f"{self.store(region)}, the store of {region}, is no directory (--store-dir)")

    def lock(self, name: str) -> "contextlib.AbstractContextManager[None]":
        """Hold the lock of the only ``serve`` or ``agent`` on this directory. The end of the process frees it.

        Raises:
            SetupError: another process holds it.
        """
        return _locked(self.path / f"{name}.lock", f"another `snaphold {name}` is running on {self.path}")

    def worker_lock(self, region: str) -> Path:
        """The lock that the region's worker holds while it works (snaphold.queue)."""
        return self.region(region) / "worker.lock"

    def answering(self, region: str) -> "contextlib.AbstractContextManager[None]":
        """Hold a shared lock while an API serves a region. Raises ``SetupError`` while ``without_service`` is held."""
        taken = f"the catalog of region {region} on {self.path} is being replaced"
        return _locked(self._api_lock(region), taken, shared=True)

    @contextlib.contextmanager
    def without_service(self, region: str) -> Iterator[None]:
        """Keep a region's APIs and worker from starting. Raises ``SetupError`` while one of them runs."""
        with (
            _locked(self._api_lock(region), f"an API of region {region} is running on {self.path}: stop it"),
            _locked(self.worker_lock(region), f"the worker of region {region} is running on {self.path}: stop it"),
        ):
            yield

    def _api_lock(self, region: str) -> Path:
        return self.region(region) / "api.lock"

    def owner(self, name: str) -> int | None:
        """The id of the process that holds this lock; None: nobody does."""
        path = self.path / f"{name}.lock"
        try:
            with path.open("r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return None
        except BlockingIOError:
            text = path.read_text("ascii").strip()
            return int(text) if text.isdigit() else None
        return None


@contextlib.contextmanager
def _locked(path: Path, taken: str, *, shared: bool = False) -> Iterator[None]:
    """Hold a lock on a file, exclusive or shared. The file of an exclusive lock holds the id of its process."""
    try:
        file = path.open("a+")
    except OSError as error:
        raise SetupError(f"{path} cannot be opened: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip()
            raise SetupError(f"{taken} (process {holder})" if holder else taken) from error
        file.truncate(0)
        if not shared:
            file.write(f"{os.getpid()}\n")
            file.flush()
        yield  # the id stays in the file until the lock is free, so that owner() always finds it


def check_port(endpoint: Endpoint) -> None:
    """Raise ``SetupError`` when the address and port cannot be bound."""
    family = socket.AF_INET6 if ":" in endpoint.address else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((endpoint.address, endpoint.port))
        except OSError as error:
            where = f"{endpoint.address}:{endpoint.port}"
            raise SetupError(f"region {endpoint.name} cannot listen on {where}: {error.strerror or error}") from error
