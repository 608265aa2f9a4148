"""Several engines on one host."""

from dataclasses import replace

import pytest

from snaphold.config import Settings
from snaphold.engines.base import Engines
from snaphold.engines.mariadb.engine import MariaDB
from snaphold.engines.mariadb.installation import Installation
from snaphold.errors import Permanent
from snaphold.host.servers import Servers
from tests.conftest import processes_naming
from tests.support.instances import instance_spec
from tests.support.servers import open_servers


def test_an_engine_is_found_by_its_series(engine: Installation) -> None:
    """A host may have several series of one database; a full version belongs to its series, whatever its last part."""
    old, new = MariaDB(engine), MariaDB(replace(engine, version="11.8.3"))
    engines = Engines([new, old])
    assert [found.title for found in engines] == [f"MariaDB {engine.version}", "MariaDB 11.8.3"]
    assert engines.of("mariadb", engine.series) is old
    assert engines.of("mariadb", f"{engine.series}.1") is old
    assert engines.of("mariadb", "11.8.99") is new
    with pytest.raises(Permanent, match=rf"this host runs mariadb {engine.series}, mariadb 11\.8, not mysql 8\.0"):
        engines.of("mysql", "8.0.40")


@pytest.mark.engine
def test_an_instance_whose_engine_is_gone(host_settings: Settings, engine: Installation) -> None:
    """No other series touches its data: it is not started or observed, and says why; it can be stopped and deleted."""
    spec = instance_spec()
    open_servers(host_settings).create(spec, 1)
    later = Servers(host_settings, Engines([MariaDB(replace(engine, version="11.8.3"))]))
    reason = f"this host runs mariadb 11.8, not mariadb {engine.series}"
    assert (later.state(spec.id).running, later.state(spec.id).fault) == (False, reason)
    later.stop(spec.id)
    with pytest.raises(Permanent, match=reason):
        later.start(spec.id)
    later.delete(spec.id)
    assert later.ids() == []
    assert host_settings.state_dir is not None
    assert processes_naming(host_settings.state_dir) == []
