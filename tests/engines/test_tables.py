"""What a server says of tables: damage, and what was so in the source."""

import pytest

from snaphold.config import Settings
from snaphold.engines.mariadb.tables import check_tables
from snaphold.errors import Damaged
from tests.support.chains import plain_bench
from tests.support.instances import query
from tests.support.servers import open_servers

pytestmark = pytest.mark.engine


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
