"""The commands that README.md and the pages of docs show."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from snaphold.cli import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_COMMAND = re.compile(r"(?:^|[\s`(/])snaphold (?=[a-z])([^`|#\n)]+)", re.MULTILINE)
_CODE = re.compile(r"^ *```\w*\n[\s\S]*?^ *```$|^(?: {4}.*\n)+|`[^`\n]+`", re.MULTILINE)


def commands(page: Path) -> Iterator[str]:
    """What stands behind ``snaphold`` wherever a page shows it as code."""
    for code in _CODE.findall(page.read_text("utf-8")):
        for words in _COMMAND.findall(code):
            yield re.split(r"\s(?:\d?>|<|&|…)", words)[0].strip()


def unknown(words: str) -> str | None:
    """What of a command's words is neither a command nor one of its options; None: all is known."""
    command: Any = typer.main.get_command(app)
    rest = shlex.split(words)
    while rest and hasattr(command, "commands"):
        if rest[0] not in command.commands:
            return rest[0]
        command = command.commands[rest.pop(0)]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    used = (word.partition("=")[0].strip("[]") for word in rest if word.strip("[").startswith("-"))
    return next((word for word in used if word not in known | {"--help", "-h"}), None)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_exist(page: Path) -> None:
    """Each ``snaphold …`` names a command, and options that this command has."""
    assert [words for words in commands(page) if unknown(words) is not None] == []
