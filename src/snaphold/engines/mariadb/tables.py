"""Checks every table of a server, and computes checksums of what is in it.

A table that the server reports as unsound need not be damaged by the backup. It may have been unsound in the source and
be restored as it was: a MERGE table without its child, a discarded tablespace, a table of a storage engine that is not
loaded, or a table marked as crashed. The verification names these tables and passes.
"""

import re
from collections.abc import Callable, Collection
from typing import Final

from snaphold.engines.base import Administer
from snaphold.errors import Damaged, SnapholdError
from snaphold.formats.verification_record import Checksums

_STATEMENT_S: Final = 24 * 3600.0  # enough for a large table
_SOURCE_S: Final = 600.0  # for checking one table in the source
_TEXT: Final = 200  # characters of a server's message
_TABLES: Final = (
    "SELECT TABLE_SCHEMA, TABLE_NAME, ENGINE, TABLE_TYPE FROM information_schema.TABLES"
    " WHERE COALESCE(TABLE_TYPE, '') NOT IN ('VIEW', 'SYSTEM VIEW')"
    " AND BINARY TABLE_SCHEMA NOT IN ('information_schema', 'performance_schema') ORDER BY TABLE_SCHEMA, TABLE_NAME"
)
# CHECKSUM TABLE reads uninitialized memory for generated columns (InnoDB, 10.11.19). A unique key on a BLOB has a
# hidden generated column.
_WITH_GENERATED: Final = (
    "SELECT TABLE_SCHEMA, TABLE_NAME FROM information_schema.COLUMNS WHERE IS_GENERATED = 'ALWAYS'"
    " UNION SELECT TABLE_SCHEMA, TABLE_NAME FROM information_schema.STATISTICS WHERE INDEX_TYPE = 'HASH'"
)
_SYSTEM: Final = frozenset({"mysql", "sys"})  # the server itself writes to these
_SOUND: Final = frozenset({"ok", "table is already up to date"})
_VERDICT: Final = "Corrupt"  # its last message, for every fault
_GENERAL: Final = frozenset({_VERDICT, "Operation failed"})
_ABSENT: Final = re.compile(r"doesn't exist$|is not BASE TABLE$|is not of type 'BASE TABLE'$")
_NUMBER: Final = re.compile(r"\d+")
_OF_OTHERS: Final = "MRG_MyISAM"  # its tables have no rows, only a list of other tables
_SOURCES_OWN: Final = (  # the files record this state: no damage causes it
    "Tablespace has been discarded",
    "Unknown storage engine",
    "is marked as crashed",
)


def check_tables(
    administer: Administer,
    check: Callable[[], None],
    *,
    known: Collection[str] = (),
    source: Administer | None = None,
) -> Checksums:
    """Have a restored server check every table; see Administration.check_tables (engines/base.py)."""
    tables: dict[str, int] = {}
    rows: dict[str, str] = {}
    unsound: dict[str, str] = {}
    with_generated = set(administer(_WITH_GENERATED, _STATEMENT_S))
    for schema, table, engine, kind in administer(_TABLES, _STATEMENT_S):
        check()
        name, quoted = f"{schema}.{table}", f"{_quoted(schema)}.{_quoted(table)}"
        if faults := _faults(administer, quoted, engine, _STATEMENT_S):
            if not (name in known or _was_so_before(engine, faults) or _is_so_there(source, quoted, engine, faults)):
                raise Damaged(f"the restored table {name} is not sound: {faults[0]}")
            unsound[name] = faults[0][:_TEXT]
        elif schema in _SYSTEM:
            continue
        elif (schema, table) in with_generated:
            rows[name] = _sum_of_rows(administer, quoted, versioned=kind == "SYSTEM VERSIONED")
        else:
            ((_, checksum),) = administer(f"CHECKSUM TABLE {quoted}", _STATEMENT_S)
            if checksum is not None:
                tables[name] = int(checksum)
    ((server_version,),) = administer("SELECT @@version", _STATEMENT_S)
    version = str(server_version).partition("-")[0]
    return Checksums(server_version=version, tables=tables, rows=rows, unsound=unsound)


def compare_checksums(backup_id: str, first: Checksums | None, found: Checksums) -> Checksums:
    """Compare with the first verification by a restore; see Administration.compare_checksums (engines/base.py)."""
    if first is None or _series(first) != _series(found):
        return found
    there, then = found.tables | found.rows, first.tables | first.rows
    for name in sorted(there.keys() ^ then.keys()):
        if name not in found.unsound and name not in first.unsound:
            when = "its first proof by a restore only" if name in then else "this proof by a restore, but not the first"
            raise Damaged(f"the table {name} of backup {backup_id} was found by {when}")
    for name in sorted(then.keys() & found.unsound.keys()):
        raise Damaged(
            f"the table {name} of backup {backup_id} was sound at its first proof by a restore, and is not any more: "
            f"{found.unsound[name]}"
        )
    for what, one, other in (
        ("CHECKSUM TABLE", first.tables, found.tables),
        ("the count and the sum of its rows", first.rows, found.rows),
    ):
        for name in sorted(one.keys() & other.keys()):
            if one[name] != other[name]:
                raise Damaged(
                    f"the table {name} of backup {backup_id} is not what its first proof by a restore found: "
                    f"{what} gives {other[name]} instead of {one[name]}"
                )
    kept = {name: value for name, value in first.tables.items() if name not in found.rows}
    return first.model_copy(
        update={"tables": kept, "rows": found.rows | first.rows, "unsound": found.unsound | first.unsound}
    )


def _faults(administer: Administer, quoted: str, engine: str | None, timeout_s: float) -> list[str]:
    """Return the messages of CHECK TABLE for a table that is not sound; empty when it is sound."""
    # InnoDB's extended check compares the indexes; that of other storage engines looks up the row of every key.
    said = administer(f"CHECK TABLE {quoted}{' EXTENDED' if engine == 'InnoDB' else ''}", timeout_s)
    told = [(kind.lower(), text) for _, _, kind, text in said]
    if all(kind != "error" and (kind != "status" or text.lower() in _SOUND) for kind, text in told):
        return []
    return sorted((text for _, text in told), key=lambda text: text == _VERDICT)


def _was_so_before(engine: str | None, faults: list[str]) -> bool:
    """Whether these faults can only come from the source."""
    return engine == _OF_OTHERS or any(mark in fault for fault in faults for mark in _SOURCES_OWN)


def _is_so_there(source: Administer | None, quoted: str, engine: str | None, faults: list[str]) -> bool:
    """Whether the source's own table has one of these faults too; False when the source cannot be asked.

    A table that the source does not have (any more) says nothing about the restored one.
    """
    if source is None:
        return False
    try:
        there = _faults(source, quoted, engine, _SOURCE_S)
    except SnapholdError:
        return False
    if any(_ABSENT.search(fault) for fault in there):
        return False
    return bool(_kinds(faults) & _kinds(there))


def _kinds(faults: list[str]) -> set[str]:
    """The faults without their numbers, which change while clients write; the general verdicts only if alone."""
    kinds = {_NUMBER.sub("#", fault) for fault in faults}
    return kinds - _GENERAL or kinds


def _sum_of_rows(administer: Administer, quoted: str, *, versioned: bool) -> str:
    """The number of rows, and the sum of the checksums of their columns, without generated ones."""
    columns = [
        column
        for column, *_, extra in administer(f"SHOW COLUMNS FROM {quoted}", _STATEMENT_S)
        if "GENERATED" not in extra.upper()
    ]
    each = ", ".join(f"COALESCE(CRC32({_quoted(column)}), '-')" for column in columns) or "''"
    of = f"{quoted} FOR SYSTEM_TIME ALL" if versioned else quoted
    select = f"SELECT COUNT(*), COALESCE(SUM(CRC32(CONCAT_WS(',', {each}))), 0) FROM {of}"  # noqa: S608 -- quoted names
    ((count, total),) = administer(f"SET STATEMENT time_zone = '+00:00' FOR {select}", _STATEMENT_S)
    return f"{count} {total}"


def _series(checksums: Checksums) -> str:
    return checksums.server_version.rpartition(".")[0]


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"
