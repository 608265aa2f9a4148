"""The records of the instances on this host, and the locks that keep operations on one instance apart."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from weakref import WeakValueDictionary

from snaphold.errors import NotFound
from snaphold.host.directory import IDENTIFIER, InstanceDirectory, Record

LOOK_TIMEOUT_S: Final = 1.0  # how long an observation waits for an operation on the instance


class Records:
    """The instances below ``DIR/instances``. Thread-safe."""

    def __init__(self, instances: Path) -> None:
        self.path: Final = instances
        self.placing: Final = threading.Lock()  # system users and addresses are assigned one at a time
        self._locks: WeakValueDictionary[str, threading.RLock] = WeakValueDictionary()  # those that a thread uses
        self._mutex = threading.Lock()

    def directory(self, instance_id: str) -> InstanceDirectory:
        """Return the directory of an instance, which need not exist. Raises ``NotFound`` for an id that is none."""
        try:
            return InstanceDirectory(self.path, instance_id)
        except ValueError as error:
            raise NotFound(f"Instance {instance_id} is not on this host.") from error

    def built(self, instance_id: str) -> tuple[InstanceDirectory, Record]:
        """Return the directory and the record of an instance that is complete. Raises ``NotFound``."""
        directory = self.directory(instance_id)
        record = directory.read()
        if record is None or not record.built:
            raise NotFound(f"Instance {instance_id} is not on this host.")
        return directory, record

    def all(self) -> list[tuple[str, Record | None]]:
        """Return the id of every instance directory, and its record if it can be read."""
        names = sorted(path.name for path in self.path.iterdir() if IDENTIFIER.fullmatch(path.name))
        return [(name, InstanceDirectory(self.path, name).read()) for name in names]

    def lock(self, instance_id: str) -> threading.RLock:
        """Return the lock that every operation on the instance holds."""
        with self._mutex:
            return self._locks.setdefault(instance_id, threading.RLock())

    @contextmanager
    def held(self, instance_id: str) -> Iterator[bool]:
        """Hold the lock of an instance unless a long operation has it. Yields whether it is held."""
        lock = self.lock(instance_id)
        held = lock.acquire(timeout=LOOK_TIMEOUT_S)
        try:
            yield held
        finally:
            if held:
                lock.release()
