"""Backups of the service's own state, in a container of its own, and their restore.

An object ``state/<deployment>/<time>.<SHA-256>.json.gz`` of the account ``snaphold-service`` holds the rows that no
manifest has: accounts and users, hosts, instances, failed backups. It has secrets only as the hashes in the databases.
Its name contains the hash of its bytes, so that one atomic put writes it.
"""

import gzip
import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from snaphold.catalog import saved
from snaphold.catalog.database import Catalog
from snaphold.catalog.identity_db import IdentityDatabase
from snaphold.errors import Damaged, SetupError
from snaphold.formats.manifest import sha256_of
from snaphold.model import SERVICE_ACCOUNT, InstanceStatus, rfc3339
from snaphold.steps import Step, reached
from snaphold.store.base import ObjectStore, Stores

_log = structlog.get_logger()

FORMAT: Final = "snaphold-state"
VERSION: Final = 1
LOST: Final = "Its server was lost with the state of the service; its backups can be restored."
_PREFIX: Final = "state/"
_NAME: Final = re.compile(r"state/(?P<deployment>[^/]+)/(?P<time>\d{8}T\d{12}Z)\.(?P<sha256>[0-9a-f]{64})\.json\.gz")
_TIME: Final = "%Y%m%dT%H%M%S%fZ"


class State(BaseModel):
    """A saved state: the rows of both databases, by table and column."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: Literal["snaphold-state"] = FORMAT
    version: Literal[1] = VERSION
    written: str  # RFC 3339
    region: str
    deployment: str
    identity: dict[str, list[dict[str, Any]]]
    catalog: dict[str, list[dict[str, Any]]]

    def dump(self) -> bytes:
        """The bytes that are stored, the same for the same content."""
        return gzip.compress(json.dumps(self.model_dump(), sort_keys=True, ensure_ascii=False).encode(), mtime=0)


@dataclass(frozen=True, kw_only=True)
class Saver:
    """Saves one region's state. ``keep``: how many saved states to keep; ``interval_s`` 0: save on request only."""

    catalog: Catalog
    identity: IdentityDatabase
    stores: Stores
    region: str
    deployment_id: str
    keep: int
    interval_s: float

    def save(self) -> str:
        """Save the present state, then remove the oldest saved states beyond ``keep``; the name of the new one.

        After a crash there may be one too many, which the next save removes.
        """
        with self.catalog.reading() as tx:
            now_us, catalog = tx.now_us, saved.exported(tx)
        state = State.model_validate({
            "written": rfc3339(now_us),
            "region": self.region,
            "deployment": self.deployment_id,
            "identity": self.identity.exported(),
            "catalog": catalog,
        })  # fmt: skip
        document = state.dump()
        name = f"{self._prefix}{_stamp(now_us)}.{sha256_of(document)}.json.gz"
        reached(Step.STATE_READ)
        self._store.put(name, document)
        reached(Step.STATE_SAVED)
        for old in saved_states(self._store, self.deployment_id)[: -self.keep]:
            self._store.delete(old)
        reached(Step.STATE_PRUNED)
        _log.info("state.saved", name=name, size_bytes=len(document))
        return name

    def save_when_due(self) -> None:
        """Save the state if the newest saved one is older than the interval, or there is none."""
        if self.interval_s <= 0:
            return
        with self.catalog.reading() as tx:
            due = _stamp(tx.now_us - int(self.interval_s * 1_000_000))
        names = saved_states(self._store, self.deployment_id)
        if not names or names[-1] <= f"{self._prefix}{due}":
            self.save()

    @property
    def _store(self) -> ObjectStore:
        return self.stores.of(SERVICE_ACCOUNT)

    @property
    def _prefix(self) -> str:
        return f"{_PREFIX}{self.deployment_id}/"


def saved_states(store: ObjectStore, deployment_id: str | None) -> list[str]:
    """The names of the saved states of a deployment (None: of the only one), the oldest first.

    Raises:
        SetupError: several deployments have saved states here, and none was named.
    """
    found = [match for info in store.list(_PREFIX) if (match := _NAME.fullmatch(info.name))]
    deployments = sorted({match["deployment"] for match in found})
    if deployment_id is None and len(deployments) > 1:
        raise SetupError(f"which deployment's state is meant? (--deployment, one of {', '.join(deployments)})")
    return sorted(match.string for match in found if deployment_id in {None, match["deployment"]})


def stored_state(stores: Stores, wanted: str, deployment_id: str | None) -> State:
    """Read a saved state: ``latest``, the name of an object, or a file with a copy of one.

    Raises:
        SetupError: there is none.
        Damaged: it differs from what was saved, or this release cannot read it.
    """
    store = stores.of(SERVICE_ACCOUNT)
    if Path(wanted).is_file():
        return _parsed(Path(wanted).name, Path(wanted).read_bytes())
    names = saved_states(store, deployment_id)
    if wanted != "latest":
        names = [name for name in names if name == wanted]
    if not names:
        raise SetupError(f"the store holds no saved state{'' if wanted == 'latest' else f' {wanted}'}")
    document = b"".join(store.get(names[-1]))
    match = _NAME.fullmatch(names[-1])
    if match is None or sha256_of(document) != match["sha256"]:
        raise Damaged(f"the saved state {names[-1]} is not what was saved")
    return _parsed(names[-1], document)


def restore_state(catalog: Catalog, identity: IdentityDatabase, state: State) -> None:
    """Restore accounts, users, hosts and instances. Existing rows are kept as they are, so that this may run twice.

    Instances are restored in ERROR, since their servers may be lost; one whose server still runs is ACTIVE again as
    soon as its host reports it. An instance that was being built when the state was saved is left out: it may have been
    finished since, and hosts keep instances that the catalog does not know. ``rebuild`` restores the backups.

    Raises:
        SetupError: the catalog is another deployment's, and in use.
    """
    told = state.catalog.get("instances", [])
    unfinished = [row["id"] for row in told if row.get("status") == InstanceStatus.BUILD]
    if unfinished:
        _log.warning("state.unfinished_instances", instances=unfinished)
    rows: saved.Rows = {
        **state.catalog,
        "instances": [_lost(row) for row in told if row["id"] not in unfinished],
        "hosts": [{**row, "session": None, "seen_us": None} for row in state.catalog.get("hosts", [])],
        "backups": [{**row, "proving": None, "mending": False} for row in state.catalog.get("backups", [])],
    }
    identity.imported(state.identity)
    reached(Step.STATE_ACCOUNTS_RESTORED)
    with catalog.writing() as tx:
        count = saved.imported(tx, rows, state.deployment, state.region)
    reached(Step.STATE_RESTORED)
    _log.info("state.restored", written=state.written, deployment=state.deployment, rows=count)


def _lost(row: Mapping[str, Any]) -> Mapping[str, Any]:
    if row.get("deleted_us") is not None:
        return row
    return {**row, "status": InstanceStatus.ERROR, "deleting": False, "running": False, "step": None, "reason": LOST}


def _parsed(name: str, document: bytes) -> State:
    try:
        return State.model_validate_json(gzip.decompress(document))
    except (OSError, EOFError, zlib.error, ValidationError) as error:
        raise Damaged(f"the saved state {name} cannot be understood") from error


def _stamp(time_us: int) -> str:
    """A time as it stands in a name: to the microsecond, and sorted as text as it is in time."""
    seconds, microseconds = divmod(time_us, 1_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=microseconds).strftime(_TIME)
