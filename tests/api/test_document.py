import json
import re
from typing import Any

from tests.api.site import Site


def _document(site: Site) -> dict[str, Any]:
    document = site.send("GET", "/openapi.json").json()
    assert isinstance(document, dict)
    return document


def test_every_reference_resolves(site: Site) -> None:
    """The document is whole: what it refers to is in it, and every operation has a name of its own."""
    document = _document(site)
    schemas = document["components"]["schemas"]
    references = set(re.findall(r'"\$ref": "([^"]+)"', json.dumps(document)))
    assert references <= {f"#/components/schemas/{name}" for name in schemas}
    names = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(set(names)) == len(names)


def test_bodies_and_faults(site: Site) -> None:
    """Each route that takes a body says which; each that is below an account wants a token and tells its faults."""
    for path, operations in _document(site)["paths"].items():
        for method, operation in operations.items():
            takes = method in {"put", "patch"} or (method == "post" and not path.endswith("/root"))
            assert ("requestBody" in operation) == takes, (method, path)
            if path.startswith("/v1.0/{"):
                assert operation["security"] == [{"token": []}], (method, path)
                assert {"401", "403", "404", "405", "500", "503"} <= set(operation["responses"]), (method, path)
            if path.startswith("/agent/"):
                assert operation["security"] == [{"host": []}], (method, path)
            for code, answer in operation["responses"].items():
                if int(code) >= 400:
                    reference = answer["content"]["application/json"]["schema"]["$ref"]
                    assert reference.endswith("Fault"), (method, path, code)


def test_create_backup_is_described(site: Site) -> None:
    """The body of the first route of all, as the chapter's table has it."""
    schemas = _document(site)["components"]["schemas"]
    fields = schemas["BackupFields"]["properties"]
    assert {"name", "instance", "description", "parent_id", "copy_to", "source"} <= set(fields)
    assert schemas["BackupFields"]["required"] == ["name"]
    assert (fields["name"]["minLength"], fields["name"]["maxLength"]) == (1, 64)
    assert schemas["UserFields"]["properties"]["password"]["type"] == "string"
    assert "hash" not in json.dumps(schemas["UserFields"])


def test_docs_without_internet(site: Site) -> None:
    """The page and all that it loads come from here."""
    page = site.send("GET", "/docs").text
    assert "://" not in page
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(loaded) == 3
    for path in [*loaded, *re.findall(r"url: '([^']+)'", page)]:
        assert site.send("GET", path).status_code == 200
