"""One service for all clients that a test process plays: an instance with a row, and more backups than a page holds."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import opened_state_dir
from tests.scenarios.served import ACCOUNT, Served, connected, eventually, query, served, snaphold

PAGE = 20


@dataclass(frozen=True, kw_only=True)
class Place:
    """The service, what is in it, and how one logs in: ``demo`` by the password ``secret``, ``keys`` by a key."""

    service: Served
    instance: Any
    api_key: str

    @property
    def address(self) -> str:
        """``http://host:port``."""
        return f"http://127.0.0.1:{self.service.ports['DFW']}"

    def completed(self, backup_id: str) -> Any:
        """The backup, once it is COMPLETED."""
        return self.service.reaches(f"/backups/{backup_id}", "COMPLETED")

    @contextmanager
    def busy(self) -> Iterator[None]:
        """A backup that is asked for meanwhile runs until the end: it waits for a lock that a client holds."""
        with connected(self.instance) as connection, connection.cursor() as cursor:
            cursor.execute("LOCK TABLES kept WRITE")
            yield

    def on_top_of(self, parent: Any, made: Any) -> Any:
        """What was made, once it is COMPLETED: an increment on this parent."""
        shown = self.completed(made["id"])
        assert (shown["type"], shown["parent_id"]) == ("InnoBackupExIncremental", parent["id"])
        return shown

    def backups(self) -> list[str]:
        """Every backup's id, as the API itself lists them."""
        return [backup["id"] for backup in self.service.ok("GET", "/backups?limit=100")["backups"]]

    def copies(self, backup: Any) -> list[Any]:
        """The copies of a backup in IAD, once there are any."""

        def made() -> list[Any]:
            copies = self.service.ok("GET", f"/backups/{backup['id']}")["backup"]["copies"]
            return [copy for copy in copies if copy["status"] == "COMPLETED"]

        found = eventually(made, "the copy")
        return [self.service.ok("GET", f"/backups/{copy['id']}", region="IAD")["backup"] for copy in found]

    def gone(self, path: str) -> None:
        """Wait until there is nothing at ``path``."""
        eventually(lambda: self.service.call("GET", path).status_code == 404, f"{path} to be gone")

    def restored(self, instance_id: str) -> None:
        """The instance becomes ACTIVE and holds the row, for the user that there was; then it is gone again."""
        instance = self.service.reaches(f"/instances/{instance_id}", "ACTIVE")
        assert query(instance, "SELECT what FROM kept") == (("a row",),)
        self.service.ok("DELETE", f"/instances/{instance_id}")
        self.gone(f"/instances/{instance_id}")


@pytest.fixture(scope="session")
def place(template: Path, instance_network: str) -> Iterator[Place]:
    """A service of two regions, with one instance and a second page of backups in the first."""
    regions = ("DFW", "IAD")
    with opened_state_dir(template) as state_dir, served(state_dir, instance_network, regions=regions) as service:
        words = snaphold("account", "add", "--state-dir", state_dir, ACCOUNT, "--user", "keys")
        added = subprocess.run(words, input="unused\n", check=True, stdout=subprocess.PIPE, text=True).stdout
        instance = service.instance()
        query(instance, "CREATE TABLE kept (what VARCHAR(9))")
        query(instance, "INSERT INTO kept VALUES ('a row')")
        for _ in range(PAGE + 1):
            service.backup(instance)
        yield Place(service=service, instance=instance, api_key=json.loads(added[added.index("{") :])["api_key"])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home directory, empty at first."""
    return tmp_path_factory.mktemp("home")
