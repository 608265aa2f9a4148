"""The route that lists the versions of the API. It needs no token."""

from snaphold.api.faults import documented
from snaphold.api.request_context import Context
from snaphold.api.route import router_of
from snaphold.schemas.base import Link
from snaphold.schemas.versions import ApiVersion, ApiVersionList

router = router_of(tags=["versions"], responses=documented(405, 500))


@router.get("/")
@router.get("/v1.0")
@router.get("/v1.0/", include_in_schema=False)
def list_versions(context: Context) -> ApiVersionList:
    """List the versions of the API. There is one."""
    self_link = Link(href=f"{context.links.endpoint}/v1.0/", rel="self")
    return ApiVersionList(
        versions=[ApiVersion(id="v1.0", status="CURRENT", updated="2012-08-01T00:00:00Z", links=[self_link])]
    )
