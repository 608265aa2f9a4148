"""The API against its own document: what fits a route's entry, and what does not, is answered as the entry says."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from snaphold.api import described_api
from tests.api.site import AnsweringHost, Site, opened_site

OPERATIONS: Final = {
    found.ok().label: found.ok()
    for found in schemathesis.openapi.from_dict(described_api().openapi()).get_all_operations()
    if isinstance(found, Ok)
}
CHECKS: Final = [
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
]
few = settings(
    max_examples=20,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],  # what fails is short enough
)


def requests_of(operation: str) -> st.SearchStrategy[schemathesis.Case[Any]]:
    """Requests of this operation: as its entry says, and with something that does not fit."""
    made = OPERATIONS[operation].as_strategy
    wrong = made(generation_mode=schemathesis.GenerationMode.NEGATIVE)
    return made(generation_mode=schemathesis.GenerationMode.POSITIVE) | wrong


class ForgivingHost(AnsweringHost):
    """A host that knows nothing of some of what is asked for, and says so."""

    def _answer(self, kind: str, payload: dict[str, Any]) -> dict[str, Any]:
        try:
            return super()._answer(kind, payload)
        except (KeyError, ValueError):
            return {"ok": False, "error": "NotFound", "message": "There is no such thing."}


@dataclass(frozen=True, kw_only=True)
class Place:
    """A site, and the parameters of paths that name what is in it."""

    site: Site
    known: dict[str, str]


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A site with an instance and its backup, whose host answers questions; no rate is limited."""
    with opened_site(tmp_path_factory.mktemp("clients"), rate_factor=0) as site, ForgivingHost(site):
        instance = site.instance(databases=[{"name": "shop"}])["id"]
        backup = site.backup(instance)["id"]
        yield Place(
            site=site,
            known={"instance_id": instance, "backup_id": backup, "flavor_id": "1", "datastore": "mariadb"},
        )


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site whose host says what schemathesis makes up."""
    with opened_site(tmp_path_factory.mktemp("hosts")) as site:
        yield site


def check(case: schemathesis.Case[Any], site: Site, headers: dict[str, str]) -> None:
    """No 500; code, type and form of the answer are among those that the document names."""
    for name, value in headers.items():
        case.headers[name] = value
    answer = case.call(base_url=site.url)
    assert answer.status_code != 500, answer.text
    case.validate_response(answer, checks=CHECKS)


@pytest.mark.parametrize("operation", [name for name in OPERATIONS if "/agent/" not in name])
def test_clients_requests(operation: str, clients: Place) -> None:
    """Every route of clients, on what is there and on what is not."""

    @few
    @given(case=requests_of(operation), known=st.booleans())
    def asked(case: schemathesis.Case[Any], known: bool) -> None:  # noqa: FBT001 - drawn
        names = {"account": "1234", **(clients.known if known else {})}
        case.path_parameters = {name: names.get(name, value) for name, value in case.path_parameters.items()}
        check(case, clients.site, {"X-Auth-Token": clients.site.token("admin")})

    asked()


@pytest.mark.parametrize("operation", [name for name in OPERATIONS if "/agent/" in name])
def test_hosts_requests(operation: str, hosts: Site) -> None:
    """Every route of hosts; none of them waits for work."""

    @few
    @given(case=requests_of(operation))
    def said(case: schemathesis.Case[Any]) -> None:
        if isinstance(case.body, dict) and "wait_s" in case.body:
            case.body["wait_s"] = 0
        check(case, hosts, {"Authorization": f"Bearer {hosts.region.token}"})

    said()
