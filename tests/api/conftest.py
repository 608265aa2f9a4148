from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.site import Site, opened_site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A region with its edge, with two accounts, a user of each role, and a host that is there."""
    with opened_site(tmp_path) as site:
        yield site
