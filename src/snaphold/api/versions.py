"""Which versions of the API there are; no token is needed to ask."""

from snaphold.api.answers import ApiVersion, ApiVersionList, Link
from snaphold.api.context import Context
from snaphold.api.faults import documented
from snaphold.api.route import router_of

router = router_of(tags=["versions"], responses=documented(405, 500))


@router.get("/")
@router.get("/v1.0")
@router.get("/v1.0/", include_in_schema=False)
def list_versions(context: Context) -> ApiVersionList:
    """The one version."""
    self_link = Link(href=f"{context.links.endpoint}/v1.0/", rel="self")
    return ApiVersionList(
        versions=[ApiVersion(id="v1.0", status="CURRENT", updated="2012-08-01T00:00:00Z", links=[self_link])]
    )
