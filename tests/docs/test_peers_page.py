import re
from pathlib import Path

from fastapi.routing import iter_route_contexts

from snaphold.api import described_api

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "peer-api.md"


def test_the_page_of_peers_has_every_route() -> None:
    """`/peer/v1` is in no OpenAPI document: docs/reference/peer-api.md lists all of its routes."""
    told = set(re.findall(r"^\| `([A-Z]+) (/peer/v1/\S+)` \|", PAGE.read_text("utf-8"), re.MULTILINE))
    there = {
        (method, route.path.replace("{name:path}", "{name}"))
        for route in iter_route_contexts(described_api().routes)
        if route.path is not None and route.path.startswith("/peer/v1/")
        for method in route.methods or ()
    }
    assert told == there
