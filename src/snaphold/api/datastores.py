"""Routes of datastores and their versions (contract, section 4)."""

from collections.abc import Sequence

from snaphold.api.authorization import Authorized, Call
from snaphold.api.faults import documented
from snaphold.api.links import Links
from snaphold.api.route import router_of
from snaphold.errors import NotFound
from snaphold.model import datastore_id, version_id
from snaphold.protocol import Datastore
from snaphold.schemas.datastores import (
    DatastoreAnswer,
    DatastoreList,
    DatastoreShown,
    VersionAnswer,
    VersionList,
    VersionShown,
)
from snaphold.service import instances as service

router = router_of(prefix="/v1.0/{account}", tags=["offers"], responses=documented(401, 403, 404, 405, 413, 500, 503))


@router.get("/datastores")
def list_datastores(call: Authorized) -> DatastoreList:
    """List the datastores that hosts can run."""
    return DatastoreList(datastores=_available(call))


@router.get("/datastores/versions/{version}")
def show_version_by_id(call: Authorized, version: str) -> VersionShown:
    """Show a version, by its id."""
    every = [entry for datastore in _available(call) for entry in datastore.versions]
    return VersionShown(version=_find_version(every, version))


@router.get("/datastores/{datastore}")
def show_datastore(call: Authorized, datastore: str) -> DatastoreShown:
    """Show a datastore, by its name or id."""
    return DatastoreShown(datastore=_find_datastore(call, datastore))


@router.get("/datastores/{datastore}/versions")
def list_versions(call: Authorized, datastore: str) -> VersionList:
    """List the versions of a datastore, newest first."""
    return VersionList(versions=_find_datastore(call, datastore).versions)


@router.get("/datastores/{datastore}/versions/{version}")
def show_version(call: Authorized, datastore: str, version: str) -> VersionShown:
    """Show a version, by its name or id."""
    return VersionShown(version=_find_version(_find_datastore(call, datastore).versions, version))


def _available(call: Call) -> list[DatastoreAnswer]:
    """The datastores that hosts can run, by type, each with the version that an instance gets by default."""
    by_type: dict[str, list[VersionAnswer]] = {}
    defaults: dict[str, str] = {}
    for offer in service.list_datastores(call.deployment):
        shown = _shown_version(call.links, call.account, offer.datastore)
        by_type.setdefault(offer.datastore.type, []).append(shown)
        if offer.is_default:
            defaults[offer.datastore.type] = shown.id
    return [
        DatastoreAnswer(
            id=datastore_id(name),
            name=name,
            default_version=defaults[name],
            versions=versions,
            links=call.links.of(call.account, f"datastores/{datastore_id(name)}"),
        )
        for name, versions in sorted(by_type.items())
    ]


def _shown_version(links: Links, account: str, entry: Datastore) -> VersionAnswer:
    own_id = version_id(entry.type, entry.version)
    return VersionAnswer(
        id=own_id,
        name=entry.version,
        datastore=datastore_id(entry.type),
        full_version=entry.full_version,
        active=True,
        links=links.of(account, f"datastores/{datastore_id(entry.type)}/versions/{own_id}"),
    )


def _find_datastore(call: Call, wanted: str) -> DatastoreAnswer:
    for entry in _available(call):
        if wanted.lower() in {entry.name, entry.id}:
            return entry
    raise NotFound.of("Datastore", wanted)


def _find_version(versions: Sequence[VersionAnswer], wanted: str) -> VersionAnswer:
    for entry in versions:
        if wanted.lower() in {entry.name, entry.id}:
            return entry
    raise NotFound.of("Datastore version", wanted)
