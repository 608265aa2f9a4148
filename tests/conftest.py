"""What tests that start real database servers share. Each test gets a state directory and addresses of its own.

The empty data directory that instances start from is made once a test process, and lies in every state directory but
an ``empty_state_dir``.
"""

import logging
import os
import random
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import structlog

from snaphold.config import Settings
from snaphold.engines.mariadb.installation import Installation, find_installation
from snaphold.engines.mariadb.template import template_directory


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start servers come first: a long one that is begun last is waited for by everybody else."""
    long = {item.path for item in items if item.get_closest_marker("engine")}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """A test that sets up the logs of a process leaves those of later tests alone."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    configured = structlog.get_config()
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**configured)


@pytest.fixture(scope="session")
def engine() -> Installation:
    """The MariaDB that the tests run on; none is a failure, for the promises are about it."""
    return find_installation(None)


@pytest.fixture(scope="session")
def instance_network() -> str:
    """A network that no other test process is likely to use at the same time."""
    chance = random.SystemRandom()
    return f"127.{chance.randint(80, 126)}.{chance.randint(0, 255)}.0/24"


@contextmanager
def opened_state_dir(template: Path | None = None) -> Iterator[Path]:
    """A state directory that other system users can reach (pytest's own are closed); its servers are ended after.

    ``template``: what is to lie in it as its own. Its files are only read, so that they are linked.
    """
    path = Path(tempfile.mkdtemp(prefix="snaphold-test-"))
    path.chmod(0o755)
    if template is not None:
        shutil.copytree(template, path / template.name, copy_function=os.link)
    yield path
    for process in processes_naming(path):
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def template(engine: Installation) -> Iterator[Path]:
    """The empty data directory that instances start from (``snaphold.engines.mariadb.template``)."""
    with opened_state_dir() as path:
        template_directory(path, engine)
        yield path / "template"


@pytest.fixture
def state_dir(template: Path) -> Iterator[Path]:
    """A state directory of the test's own."""
    with opened_state_dir(template) as path:
        yield path


@pytest.fixture(scope="module")
def lasting_state_dir(template: Path) -> Iterator[Path]:
    """As ``state_dir``, for all tests of a module."""
    with opened_state_dir(template) as path:
        yield path


@pytest.fixture
def empty_state_dir() -> Iterator[Path]:
    """As ``state_dir``, and nothing has been made in it."""
    with opened_state_dir() as path:
        yield path


@pytest.fixture
def host_settings(state_dir: Path, instance_network: str) -> Settings:
    """Settings of a host in ``state_dir``."""
    return Settings(state_dir=state_dir, instance_networks=[instance_network])


def processes_naming(path: Path) -> list[int]:
    """The processes with something below ``path`` on their command line, without ourselves."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if int(entry.name) != os.getpid() and os.fsencode(path) in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found
