"""Whether an account's store can be used, asked before anything is written (contract, section 9)."""

import threading
from pathlib import Path

import pytest

from snaphold.errors import Forbidden, SnapholdError, Unavailable
from snaphold.objects import CONTAINER
from snaphold.store.gates import CircuitBreaker, LocalStoreGate
from tests.support.region import OpenGate


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A local store in which the account 1234 has a container."""
    (tmp_path / "store" / "1234" / CONTAINER).mkdir(parents=True, mode=0o700)
    return tmp_path / "store"


class Hanging:
    """A store whose calls hang while ``hangs`` is set; ``asked`` counts them."""

    def __init__(self) -> None:
        self.asked = 0
        self.error: SnapholdError | None = None
        self.hangs = threading.Event()
        self.let_go = threading.Event()

    def check(self, account: str, *, write: bool) -> None:
        """Hang, fail or pass."""
        del account, write
        self.asked += 1
        if self.hangs.is_set():
            self.let_go.wait(30)
        if self.error is not None:
            raise self.error


def test_a_store_that_is_there(root: Path) -> None:
    """Open to accounts that have a container and to those that have none yet."""
    gate = LocalStoreGate(root)
    gate.check("1234", write=True)
    gate.check("5678", write=True)


@pytest.mark.parametrize("place", ["1234", f"1234/{CONTAINER}"])
@pytest.mark.parametrize("mode", [0o000, 0o300, 0o600])
def test_a_store_that_refuses(root: Path, place: str, mode: int) -> None:
    """An account whose directories are closed is refused, whoever runs the service, until they are opened."""
    (root / place).chmod(mode)
    for write in (True, False):
        with pytest.raises(Forbidden, match="refuses this account"):
            LocalStoreGate(root).check("1234", write=write)
    LocalStoreGate(root).check("5678", write=True)
    (root / place).chmod(0o700)
    LocalStoreGate(root).check("1234", write=True)


@pytest.mark.parametrize("place", ["", "1234", f"1234/{CONTAINER}"])
def test_a_store_that_can_only_be_read(root: Path, place: str) -> None:
    """It is read from, and refuses by its name whatever would write."""
    (root / place).chmod(0o500)
    LocalStoreGate(root).check("1234", write=False)
    with pytest.raises(Forbidden, match="can only be read"):
        LocalStoreGate(root).check("1234", write=True)
    (root / place).chmod(0o700)


def test_a_store_that_is_away(root: Path) -> None:
    """A store whose directory is gone, or is none, does not answer."""
    root.rename(root.with_name("away"))
    with pytest.raises(Unavailable):
        LocalStoreGate(root).check("1234", write=True)
    root.touch()
    with pytest.raises(Unavailable):
        LocalStoreGate(root).check("1234", write=True)


def test_a_store_that_hangs() -> None:
    """Waited for once, then taken for silent by all; asked again after a while by one, and used when it answers."""
    store, now_s = Hanging(), [0.0]
    gate = CircuitBreaker(store, timeout_s=0.05, rest_s=10, passed_s=lambda: now_s[0])
    gate.check("1234", write=True)
    store.hangs.set()
    for _ in range(3):
        with pytest.raises(Unavailable):
            gate.check("1234", write=True)
    assert store.asked == 2
    now_s[0] = 10
    for _ in range(3):
        with pytest.raises(Unavailable):
            gate.check("5678", write=True)
    assert store.asked == 3
    store.hangs.clear()
    with pytest.raises(Unavailable):
        gate.check("1234", write=True)
    now_s[0] = 20
    gate.check("1234", write=True)
    gate.check("1234", write=True)
    assert store.asked == 5
    store.let_go.set()


@pytest.mark.parametrize("error", [Forbidden("no"), Unavailable("away")], ids=["refuses", "away"])
def test_what_the_store_says_is_passed_on(error: SnapholdError) -> None:
    """A store that answers is no silent one, whatever it says: it is asked each time."""
    store = Hanging()
    store.error = error
    gate = CircuitBreaker(store, timeout_s=5, rest_s=10)
    for _ in range(2):
        with pytest.raises(type(error)):
            gate.check("1234", write=True)
    assert store.asked == 2
    CircuitBreaker(OpenGate(), timeout_s=5, rest_s=10).check("1234", write=True)
