"""Prints the results of administrative commands: tables and sentences for people, JSON for scripts."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import typer

from snaphold.wiring.logs import printable

AsJSON = Annotated[bool, typer.Option("--json", help="print JSON")]

_WIDTH: Final = 1000  # columns without a terminal: no row is folded


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    sys.stdout.write(json.dumps(value, indent=1) + "\n")


def print_rows(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], *, as_json: bool) -> None:
    """Print rows as a table, or as a JSON list with every key. ``columns``: the table's headings by key, in order."""
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    if as_json:
        print_json(list(rows))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in columns.values():
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row[key]) for key in columns))
    width = None if sys.stdout.isatty() else _WIDTH
    Console(highlight=False, markup=False, width=width).print(table)


def print_outcome(sentence: str, facts: Mapping[str, Any], *, as_json: bool) -> None:
    """Print the outcome of a command as a sentence or as a JSON object."""
    if as_json:
        print_json(facts)
    else:
        sys.stdout.write(f"{printable(sentence)}\n")


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_cell, value)) or "-"
    return "-" if value is None else printable(str(value))  # a host chooses what it reports
