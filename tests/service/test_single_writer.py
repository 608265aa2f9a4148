"""Which checks a database with several writers would have to guard."""

import ast
import re
from pathlib import Path

import snaphold

TOP = Path(snaphold.__file__).parent


def test_architecture_lists_every_check_that_relies_on_the_single_writer() -> None:
    """Whoever brings another database finds in ARCHITECTURE.md each function that needs a lock or constraint there."""
    marked = {
        f"{file.relative_to(TOP).with_suffix('').as_posix().replace('/', '.')}.{node.name}"
        for file in TOP.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef)
        and any(isinstance(mark, ast.Name) and mark.id == "relies_on_single_writer" for mark in node.decorator_list)
    }
    text = (Path(__file__).parents[2] / "ARCHITECTURE.md").read_text("utf-8")
    section = text.partition("\n## Checks that rely on the single writer\n")[2].partition("\n## ")[0]
    listed = {
        name for line in section.splitlines() if line.startswith("- ") for name in re.findall(r"`([a-z_.]+)`", line)
    }
    assert listed == marked
