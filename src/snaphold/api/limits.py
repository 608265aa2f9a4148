"""The route of an account's limits (contract, section 8)."""

from collections.abc import Mapping
from typing import Final

from snaphold.api.authorization import Authorized
from snaphold.api.faults import documented
from snaphold.api.paging import MAX_LIMIT
from snaphold.api.route import router_of
from snaphold.model import Rate, rfc3339
from snaphold.schemas.limits import AbsoluteLimits, LimitList, RateLimit
from snaphold.service import limits as service

# Method and path, below the account, of the requests that each rate counts.
_COUNTED: Final[Mapping[Rate, tuple[str, str]]] = {
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
_ROUND_UP_US: Final = 999_999  # answers have whole seconds

router = router_of(prefix="/v1.0/{account}", tags=["offers"], responses=documented(401, 403, 404, 405, 413, 500, 503))


@router.get("/limits")
def list_limits(call: Authorized) -> LimitList:
    """List the account's limits and how much of each is left: the absolute limits first, then the rates."""
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
    found = service.standings(call.deployment, call.account)
    return LimitList(limits=[absolute, *(_shown(*_COUNTED[rate], found[rate]) for rate in found)])


def _shown(verb: str, uri: str, standing: service.Standing) -> RateLimit:
    return RateLimit(
        verb=verb,
        uri=uri,
        value=standing.limit,
        remaining=standing.remaining,
        unit="MINUTE",
        nextAvailable=rfc3339(standing.next_us + _ROUND_UP_US),
    )
