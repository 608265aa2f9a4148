"""Lines of the log."""

import logging

import pytest
import structlog

from snaphold.cli.output import print_outcome, print_rows
from snaphold.config import Settings
from snaphold.wiring.logs import printable, set_up_logs

NAME = "\x1b[31mred\x07\r\nevent=forged \u202ereversed\u2028 \x9b0m"


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize("logger", ["ours", "a library's"])
def test_names_of_strangers(log_format: str, logger: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever stands in a name, or in an error's text: one line is written, without a character that is none."""
    set_up_logs(Settings.model_validate({"log_format": log_format}), "test")
    if logger == "ours":
        logger_of_ours = structlog.get_logger("x")
        logger_of_ours.error("backup.named", name=NAME, names=[NAME], count=1, none=None, exc_info=ValueError(NAME))
    else:
        logging.getLogger("x").warning("said %s", NAME)
    line = capsys.readouterr().err
    assert line.endswith("\n")
    assert line[:-1].isprintable()
    assert "red" in line


def test_tables_and_sentences(capsys: pytest.CaptureFixture[str]) -> None:
    """What a command prints of somebody's name is one line too, and moves no cursor."""
    print_rows([{"name": NAME, "all": [NAME]}], {"name": "NAME", "all": "ALL"}, as_json=False)
    print_outcome(f"{NAME} was removed", {}, as_json=False)
    lines = capsys.readouterr().out.split("\n")
    assert len(lines) == 4
    assert all(line.isprintable() for line in lines)


def test_printable() -> None:
    """What can be shown is shown."""
    assert printable("Größe 表 👍 a b") == "Größe 表 👍 a b"
    assert printable("a\tb\x1b") == "a\\tb\\x1b"
