"""Where everything lies in a state directory, and who may use it."""

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
    """A region's name and where its API listens, or is found."""

    name: str
    address: str
    port: int

    @property
    def url(self) -> str:
        """Without a path and without a slash at the end."""
        return f"http://{f'[{self.address}]' if ':' in self.address else self.address}:{self.port}"

    def __str__(self) -> str:
        """As the setting is written."""
        return f"{self.name}={self.url.removeprefix('http://')}"


def parse_regions(texts: Sequence[str]) -> list[Endpoint]:
    """Read ``NAME=ADDRESS:PORT`` settings.

    Raises:
        SetupError: one has another form, none is given, or two share a name or a port.
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
    """The layout of a state directory."""

    path: Path
    store_root: Path | None = None  # of the stores of all regions, where they lie elsewhere

    @property
    def identity(self) -> Path:
        """Accounts, users and tokens: one database for all regions."""
        return self.path / "identity.db"

    @property
    def instances(self) -> Path:
        """The database servers' directories."""
        return self.path / "instances"

    def region(self, name: str) -> Path:
        """All that belongs to one region."""
        return self.path / "regions" / name

    def catalog(self, region: str) -> Path:
        """The region's record."""
        return self.region(region) / "catalog.db"

    def store(self, region: str) -> Path:
        """The region's object store.

        Raises:
            SetupError: it was made to lie elsewhere, and nothing says where now; an empty one would be taken for it.
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
        """Holds the last ``store_root`` that the region was made with."""
        return self.region(region) / "store-dir"

    def agent_token(self, region: str) -> Path:
        """What the embedded agent shows to the region's API."""
        return self.region(region) / "agent.token"

    def peer_token(self, region: str) -> Path:
        """What other regions show to this one's API."""
        return self.region(region) / "peer.token"

    def region_names(self) -> list[str]:
        """Every region that there is in this directory."""
        with contextlib.suppress(FileNotFoundError):
            return sorted(entry.name for entry in (self.path / "regions").iterdir() if entry.is_dir())
        return []

    def make(self, regions: Sequence[str] = ()) -> None:
        """Make what is missing of the directory and of these regions' parts.

        Raises:
            SetupError: it cannot be made, or cannot be written to; or as ``store`` says.
        """
        self._check_store_root(regions)
        try:
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
        """Make the region's store where it is missing. Raises ``SetupError`` where it cannot be made."""
        try:
            self.store(region).mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise SetupError(f"the store of {region} cannot be made: {error.filename}: {error.strerror}") from error

    @property
    def is_set_up(self) -> bool:
        """Whether ``make`` has been here."""
        return (self.path / "regions").is_dir()

    @property
    def not_set_up(self) -> str:
        """What to tell an operator who named a directory in which no service has been set up."""
        return f"{self.path} is no state directory: no service has been set up in it (snaphold serve)"

    def require(self) -> None:
        """Raise ``SetupError`` where no service has been set up, and make nothing."""
        if not self.is_set_up:
            raise SetupError(self.not_set_up)

    def require_store(self, region: str) -> None:
        """Raise ``SetupError`` where the region's store is to lie elsewhere and is not there: nothing is made then."""
        if self.store_root is not None and not self.store(region).is_dir():
            raise SetupError(f"{self.store(region)}, the store of {region}, is no directory (--store-dir)")

    def lock(self, name: str) -> "contextlib.AbstractContextManager[None]":
        """Be the only one of its kind on this directory: ``serve`` or ``agent``. Freed by the end of the process.

        Raises:
            SetupError: there is one already.
        """
        return _locked(self.path / f"{name}.lock", f"another `snaphold {name}` is running on {self.path}")

    def worker_lock(self, region: str) -> Path:
        """What the region's worker holds while it works (snaphold.queue)."""
        return self.region(region) / "worker.lock"

    def answering(self, region: str) -> "contextlib.AbstractContextManager[None]":
        """Be one of those that answer for a region. Raises ``SetupError`` while nobody may."""
        taken = f"the record of region {region} on {self.path} is being replaced"
        return _locked(self._api_lock(region), taken, shared=True)

    @contextlib.contextmanager
    def without_service(self, region: str) -> Iterator[None]:
        """Keep a region's APIs and its worker away. Raises ``SetupError`` while one of them is there."""
        with (
            _locked(self._api_lock(region), f"an API of region {region} answers on {self.path}: stop it"),
            _locked(self.worker_lock(region), f"the worker of region {region} is at work on {self.path}: stop it"),
        ):
            yield

    def _api_lock(self, region: str) -> Path:
        return self.region(region) / "api.lock"

    def owner(self, name: str) -> int | None:
        """The process id of whoever holds this lock."""
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
    """Hold a lock, alone or with others who share it. Its file names the process that holds it alone."""
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
        yield  # the name stays until the lock is free: who asks for the owner meanwhile must not find nobody


def check_port(endpoint: Endpoint) -> None:
    """Raise ``SetupError`` when the address cannot be listened on."""
    family = socket.AF_INET6 if ":" in endpoint.address else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((endpoint.address, endpoint.port))
        except OSError as error:
            where = f"{endpoint.address}:{endpoint.port}"
            raise SetupError(f"region {endpoint.name} cannot listen on {where}: {error.strerror or error}") from error
