import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "guarantees.md"
_ROW = re.compile(r"^\| (?P<against>[a-z, ]+) \| (?P<promise>.+) \| (?P<tests>`.+`) \|$")
_TEST = re.compile(r"`(tests/\S+\.py)::(test_\w+)(?:\[[^`]*\])?`")
PARTIES = {"tenants", "hosts", "peers", "stores", "crashes"}


def rows() -> list[str]:
    """The rows of the table, without its head."""
    lines = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("|")]
    return lines[2:]


def test_each_promise_names_a_test_that_exists() -> None:
    """A row names known parties, one or several, and at least one test function of the repository."""
    for row in rows():
        parts = _ROW.match(row)
        assert parts, row
        assert set(parts["against"].split(", ")) <= PARTIES, row
        named = _TEST.findall(parts["tests"])
        assert named, row
        assert [each for each in named if not there(*each)] == [], row


def there(file: str, test: str) -> bool:
    """Whether a file of tests has this test function."""
    path = ROOT / file
    nodes = ast.walk(ast.parse(path.read_text("utf-8"))) if path.exists() else ()
    return test in {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
