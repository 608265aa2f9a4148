"""Routes of flavors (contract, section 4)."""

from snaphold.api.authorization import Authorized
from snaphold.api.faults import documented
from snaphold.api.links import Links
from snaphold.api.route import router_of
from snaphold.errors import NotFound
from snaphold.model import FLAVORS, Flavor, flavor_from_reference
from snaphold.schemas.flavors import FlavorAnswer, FlavorList, FlavorShown

router = router_of(prefix="/v1.0/{account}", tags=["offers"], responses=documented(401, 403, 404, 405, 413, 500, 503))


@router.get("/flavors")
def list_flavors(call: Authorized) -> FlavorList:
    """List all flavors."""
    return FlavorList(flavors=[_shown(call.links, call.account, flavor) for _, flavor in sorted(FLAVORS.items())])


@router.get("/flavors/{flavor_id}")
def show_flavor(call: Authorized, flavor_id: str) -> FlavorShown:
    """Show a flavor."""
    flavor = flavor_from_reference(flavor_id)
    if flavor is None:
        raise NotFound.of("Flavor", flavor_id)
    return FlavorShown(flavor=_shown(call.links, call.account, flavor))


def _shown(links: Links, account: str, flavor: Flavor) -> FlavorAnswer:
    return FlavorAnswer(
        id=flavor.id, name=flavor.name, ram=flavor.ram_mb, links=links.of(account, f"flavors/{flavor.id}")
    )
