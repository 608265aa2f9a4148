"""What there is to choose from, and the limits: flavors, datastores, limits (contract, section 4)."""

from collections.abc import Mapping, Sequence
from typing import Final

from snaphold.api import answers
from snaphold.api.answers import (
    AbsoluteLimits,
    DatastoreAnswer,
    DatastoreList,
    DatastoreShown,
    FlavorList,
    FlavorShown,
    LimitList,
    VersionAnswer,
    VersionList,
    VersionShown,
)
from snaphold.api.context import Call, Calling
from snaphold.api.faults import documented
from snaphold.api.paging import MAX_LIMIT
from snaphold.api.route import router_of
from snaphold.errors import NotFound
from snaphold.model import Rate, flavor_from_reference
from snaphold.service import instances as service
from snaphold.service import limits

# Verb and path, below the account, of what is counted.
_LIMITED: Final[Mapping[Rate, tuple[str, str]]] = {
    Rate.BACKUP_CREATES: ("POST", "/backups"),
    Rate.BACKUP_DELETES: ("DELETE", "/backups/*"),
    Rate.BACKUP_ACTIONS: ("POST", "/backups/*/action"),
    Rate.INSTANCE_CREATES: ("POST", "/instances"),
    Rate.INSTANCE_DELETES: ("DELETE", "/instances/*"),
    Rate.INSTANCE_ACTIONS: ("POST", "/instances/*/action"),
    Rate.INSTANCE_RENAMES: ("PATCH", "/instances/*"),
    Rate.SCHEDULE_WRITES: ("POST, PUT, DELETE", "/schedules"),
    Rate.USER_WRITES: ("POST, PUT, DELETE", "/instances/*/{databases,users,root}"),
    Rate.READS: ("GET", "*"),
}

router = router_of(prefix="/v1.0/{account}", tags=["offers"], responses=documented(401, 403, 404, 405, 413, 500, 503))


@router.get("/flavors")
def list_flavors(call: Calling) -> FlavorList:
    """All flavors."""
    return FlavorList(flavors=answers.all_flavors(call.links, call.account))


@router.get("/flavors/{flavor_id}")
def show_flavor(call: Calling, flavor_id: str) -> FlavorShown:
    """One flavor."""
    flavor = flavor_from_reference(flavor_id)
    if flavor is None:
        raise NotFound.of("Flavor", flavor_id)
    return FlavorShown(flavor=answers.shown_flavor(call.links, call.account, flavor))


@router.get("/datastores")
def list_datastores(call: Calling) -> DatastoreList:
    """What the hosts can really run."""
    return DatastoreList(datastores=_offered(call))


@router.get("/datastores/versions/{version}")
def show_version_by_id(call: Calling, version: str) -> VersionShown:
    """One version, by its id."""
    every = [entry for datastore in _offered(call) for entry in datastore.versions]
    return VersionShown(version=_version(every, version))


@router.get("/datastores/{datastore}")
def show_datastore(call: Calling, datastore: str) -> DatastoreShown:
    """One datastore, by its name or id."""
    return DatastoreShown(datastore=_datastore(call, datastore))


@router.get("/datastores/{datastore}/versions")
def list_versions(call: Calling, datastore: str) -> VersionList:
    """The versions of a datastore, newest first."""
    return VersionList(versions=_datastore(call, datastore).versions)


@router.get("/datastores/{datastore}/versions/{version}")
def show_version(call: Calling, datastore: str, version: str) -> VersionShown:
    """One version, by its name or id."""
    return VersionShown(version=_version(_datastore(call, datastore).versions, version))


@router.get("/limits")
def list_limits(call: Calling) -> LimitList:
    """What is limited, and how much of it is left to the account: the absolute limits first, then the rates."""
    settings = call.deployment.settings
    absolute = AbsoluteLimits(
        verb="ABSOLUTE",
        max_backups=settings.max_backups_per_account,
        max_running_backups=settings.max_running_backups_per_account,
        max_instances=settings.max_instances_per_account,
        max_volumes=settings.max_volume_gb_per_account,
        max_page=MAX_LIMIT,
        max_body_bytes=settings.max_body_bytes,
    )
    found = limits.standings(call.deployment, call.account)
    return LimitList(limits=[absolute, *(answers.shown_rate(*_LIMITED[rate], found[rate]) for rate in found)])


def _offered(call: Call) -> list[DatastoreAnswer]:
    return answers.shown_datastores(call.links, call.account, service.list_datastores(call.deployment))


def _datastore(call: Call, wanted: str) -> DatastoreAnswer:
    for entry in _offered(call):
        if wanted.lower() in {entry.name, entry.id}:
            return entry
    raise NotFound.of("Datastore", wanted)


def _version(versions: Sequence[VersionAnswer], wanted: str) -> VersionAnswer:
    for entry in versions:
        if wanted.lower() in {entry.name, entry.id}:
            return entry
    raise NotFound.of("Datastore version", wanted)
