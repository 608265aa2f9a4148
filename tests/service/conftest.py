from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.region import Region, open_region


@pytest.fixture
def region(tmp_path: Path) -> Iterator[Region]:
    """A region with one host that is there."""
    region = open_region(tmp_path)
    yield region
    region.deployment.catalog.close()
