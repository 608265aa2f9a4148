"""What a server says of tables: damage, and what was so in the source."""

from typing import Any

import pytest

from snaphold.config import Settings
from snaphold.engines.mariadb.tables import check_tables, compare_checksums
from snaphold.errors import Damaged
from snaphold.formats.verification_record import Checksums
from tests.support.chains import plain_bench
from tests.support.instances import query
from tests.support.servers import open_servers


@pytest.mark.engine
def test_a_table_without_its_file(host_settings: Settings) -> None:
    """A table of an engine that is not loaded comes back as it was; one whose file is lost is damaged."""
    servers = open_servers(host_settings)
    chain, source = plain_bench(servers, host_settings, ("shop",))
    for statement in ("CREATE TABLE shop.foreign_to_us (a INT)", "CREATE TABLE shop.lost (a INT)"):
        query(source, statement)
    access = servers.access(chain.spec.id)
    servers.stop(chain.spec.id)
    definition = access.data_directory / "shop" / "foreign_to_us.frm"
    content = bytearray(definition.read_bytes().replace(b"InnoDB", b"NOSUCH"))
    content[3] = 40  # the engine's number
    definition.write_bytes(content)
    servers.start(chain.spec.id)
    found = check_tables(access.administer, lambda: None)
    assert found.unsound == {"shop.foreign_to_us": "Unknown storage engine 'NOSUCH'"}
    assert [*found.tables] == ["shop.lost"]

    servers.stop(chain.spec.id)
    (access.data_directory / "shop" / "lost.ibd").unlink()
    servers.start(chain.spec.id)
    with pytest.raises(Damaged, match=r"the restored table shop\.lost is not sound: Tablespace is missing"):
        check_tables(access.administer, lambda: None)


class Answers:
    """A server with the table ``shop.t``, of which CHECK TABLE says this."""

    def __init__(self, *faults: str) -> None:
        self._faults = faults

    def __call__(self, statement: str, timeout_s: float) -> list[tuple[Any, ...]]:
        """The rows of a statement."""
        assert timeout_s > 0
        if statement.startswith("SELECT TABLE_SCHEMA, TABLE_NAME, ENGINE"):
            return [("shop", "t", "InnoDB", "BASE TABLE")]
        if statement.startswith("CHECK TABLE"):
            return [("shop.t", "check", "Error", fault) for fault in self._faults]
        return [("10.11.19-MariaDB",)] if "version" in statement else []


HERE = ("Index 'a' contains 5 entries, should be 6", "Corrupt")


@pytest.mark.parametrize(
    "there",
    [
        ("Table 'shop.t' doesn't exist", "Operation failed"),
        ("'shop.t' is not BASE TABLE", "Operation failed"),
        ("The used table type doesn't support checks", "Corrupt"),
        (),
    ],
)
def test_another_fault_in_the_source_forgives_nothing(there: tuple[str, ...]) -> None:
    """Damage is damage, unless the source's own table has the same: one that it does not have proves nothing."""
    with pytest.raises(Damaged, match=r"shop\.t is not sound: Index 'a'"):
        check_tables(Answers(*HERE), lambda: None, source=Answers(*there))


def test_the_same_fault_in_the_source_is_no_damage() -> None:
    """The numbers in it may differ, for clients go on writing."""
    there = Answers("Index 'a' contains 8 entries, should be 9", "Corrupt")
    found = check_tables(Answers(*HERE), lambda: None, source=there)
    assert found.unsound == {"shop.t": HERE[0]}


def checksums(**facts: dict[str, Any]) -> Checksums:
    """What a verification found."""
    return Checksums.model_validate({"server_version": "10.11.19", "tables": {}, **facts})


@pytest.mark.parametrize("first", [{"tables": {"shop.t": 1}}, {"rows": {"shop.t": "1 1"}}])
def test_a_table_that_was_sound_stays_sound(first: dict[str, dict[str, Any]]) -> None:
    """A table that the first verification found sound is damaged when a later one does not."""
    with pytest.raises(Damaged, match=r"shop\.t of backup b was sound"):
        compare_checksums("b", checksums(**first), checksums(unsound={"shop.t": "Corrupt"}))


def test_the_first_checksums_are_kept() -> None:
    """A later verification drops none of them, but for a table that is summed up in another way now."""
    first = checksums(tables={"shop.a": 1, "shop.b": 2}, unsound={"shop.c": "Corrupt"})
    found = checksums(tables={"shop.a": 1, "shop.c": 3}, rows={"shop.b": "1 1"})
    kept = compare_checksums("b", first, found)
    assert (kept.tables, kept.rows, kept.unsound) == ({"shop.a": 1}, {"shop.b": "1 1"}, {"shop.c": "Corrupt"})
