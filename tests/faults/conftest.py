"""A state directory that a whole module shares: what its tests strike must survive all of them."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import processes_naming


@pytest.fixture(scope="module")
def lasting_state_dir() -> Iterator[Path]:
    """As ``state_dir``, for all tests of a module."""
    path = Path(tempfile.mkdtemp(prefix="snaphold-test-"))
    path.chmod(0o755)
    yield path
    for process in processes_naming(path):
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    shutil.rmtree(path, ignore_errors=True)
