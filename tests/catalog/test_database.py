"""Rows as dictionaries."""

import pytest
import sqlalchemy as sa

from snaphold.catalog.database import all_rows, one_row


@pytest.mark.parametrize(("count", "one"), [(0, None), (1, {"n": 0, "text": "0"})])
def test_rows_by_name(count: int, one: dict[str, object] | None) -> None:
    """Each row has its columns by name, in the statement's order; the one row is that, or None."""
    with sa.create_engine("sqlite://").connect() as connection:
        assert all_rows(connection.execute(numbers(3)))[1:] == [{"n": 1, "text": "1"}, {"n": 2, "text": "2"}]
        assert one_row(connection.execute(numbers(count))) == one


def test_several_rows_are_not_one() -> None:
    """Where there must be one at most, several are a mistake of ours that must not go by unseen."""
    with sa.create_engine("sqlite://").connect() as connection, pytest.raises(sa.exc.MultipleResultsFound):
        one_row(connection.execute(numbers(2)))


def numbers(count: int) -> sa.Select[tuple[int, str]]:
    """A statement with so many rows."""
    table = sa.func.json_each(f"[{','.join(map(str, range(count)))}]").table_valued(sa.column("value", sa.Integer))
    return sa.select(table.c.value.label("n"), sa.cast(table.c.value, sa.String).label("text"))
