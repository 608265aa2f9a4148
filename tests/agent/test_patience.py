"""How long a new backup waits for a store that does not answer while it is read back."""

import threading
from typing import TYPE_CHECKING, cast

import pytest

from snaphold.agent.context import TaskContext
from snaphold.agent.verification import verify_new
from snaphold.config import Settings
from snaphold.engines.base import Engines
from snaphold.errors import Permanent
from snaphold.model import VerificationLevel, VerificationStatus
from snaphold.protocol import ChainLink
from tests.fakes.memory_store import Fault, MemoryStores
from tests.support.manifests import a_backup_record, put_in_segments
from tests.support.region import ACCOUNT

if TYPE_CHECKING:
    from snaphold.agent.lease import Lease
    from snaphold.host.servers import Servers

MANIFEST, LAST_SEGMENT = 1, 6  # calls of get: the first try's, which fails; the second try's, after four others


class Looks(threading.Event):
    """An event that tells how often it was looked at beside the threads that read segments."""

    def __init__(self) -> None:
        super().__init__()
        self._changed = threading.Condition()
        self._count = 0

    def is_set(self) -> bool:
        """Look."""
        if not threading.current_thread().name.startswith("prove"):
            with self._changed:
                self._count += 1
                self._changed.notify_all()
        return super().is_set()

    def wait_for(self, count: int) -> None:
        """Until it was looked at so often."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._count >= count, 30)


class Alone:
    """A lease that nobody ends."""

    def __init__(self) -> None:
        self.stop = Looks()

    def tell(self, **news: object) -> None:
        """Nobody listens."""

    def check(self) -> None:
        """It goes on."""

    def confirm(self) -> None:
        """It goes on."""


@pytest.mark.parametrize("heard_between", [True, False])
def test_silences_of_a_store(*, heard_between: bool) -> None:
    """Each silence counts by itself: only one that lasts as long as ``verify_wait_s`` ends the backup."""
    stores, lease = MemoryStores(), Alone()
    store = stores.of(ACCOUNT)
    backup = put_in_segments(store, a_backup_record(1), "deployment", None)
    link = ChainLink(backup_id=backup.id, account=ACCOUNT, manifest_sha256=str(backup.manifest_sha256))
    settings = Settings(verify_wait_s=0.1, compression_threads=1)
    context = TaskContext(servers=cast("Servers", None), engines=Engines([]), stores=stores, settings=settings)
    if heard_between:

        def look(method: str) -> None:
            if method == "get" and store.calls["get"] >= LAST_SEGMENT:
                lease.stop.wait_for(2)  # the first segment counts as heard before the second one is looked at

        store.on_call = look
        store.faults = [Fault("get", first=MANIFEST), Fault("get", first=LAST_SEGMENT, last=LAST_SEGMENT)]
        result = verify_new(
            context, [link], VerificationLevel.OBJECTS, cast("Lease", lease), expected_bytes=1, source=None
        )
        assert result.status is VerificationStatus.PASSED
        assert store.calls["get"] > LAST_SEGMENT
    else:
        store.faults = [Fault("get", first=MANIFEST, last=MANIFEST + 1)]
        with pytest.raises(Permanent, match="could not be read back"):
            verify_new(context, [link], VerificationLevel.OBJECTS, cast("Lease", lease), expected_bytes=1, source=None)
