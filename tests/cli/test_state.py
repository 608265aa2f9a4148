import fcntl
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from snaphold.errors import SetupError
from snaphold.wiring.secrets import peer_token
from snaphold.wiring.state_directory import Endpoint, StateDirectory, check_port, parse_regions


def test_regions_as_written() -> None:
    """A region is a name, an address and a port; an IPv6 address stands in brackets."""
    assert [
        Endpoint(name="DFW", address="127.0.0.1", port=8779),
        Endpoint(name="IAD", address="::1", port=80),
    ] == parse_regions(["DFW=127.0.0.1:8779", "IAD=[::1]:80"])


def test_an_endpoint_says_itself_as_it_was_written() -> None:
    """What one process is told, it can tell another."""
    texts = ["DFW=127.0.0.1:8779", "IAD=[::1]:80"]
    assert texts == [str(region) for region in parse_regions(texts)]


@pytest.mark.parametrize(
    "texts",
    [
        [],
        ["DFW"],
        ["DFW=8779"],
        ["DFW=127.0.0.1:"],
        ["DFW=127.0.0.1:0"],
        ["DFW=127.0.0.1:70000"],
        ["../x=127.0.0.1:80"],
        ["DFW=127.0.0.1:80", "dfw=127.0.0.1:81"],
        ["DFW=127.0.0.1:80", "IAD=127.0.0.1:80"],
    ],
    ids=repr,
)
def test_regions_that_make_no_sense(texts: list[str]) -> None:
    """A region that cannot be served is refused before anything starts; its name becomes a directory's."""
    with pytest.raises(SetupError):
        parse_regions(texts)


def test_a_port_that_somebody_listens_on() -> None:
    """A port in use is told before a process is started for it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(SetupError, match=f"127.0.0.1:{port}"):
            check_port(Endpoint(name="DFW", address="127.0.0.1", port=port))
    check_port(Endpoint(name="DFW", address="127.0.0.1", port=port))


def test_a_file_in_place_of_the_state_directory(tmp_path: Path) -> None:
    """A broken state directory is one clear line, and nothing is half made."""
    (tmp_path / "state").write_text("not a directory")
    with pytest.raises(SetupError, match="state"):
        StateDirectory(tmp_path / "state").make(["DFW"])
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_a_store_elsewhere_is_not_forgotten(tmp_path: Path) -> None:
    """Once a region's store lies elsewhere, the empty one of the state directory is never taken for it."""
    StateDirectory(tmp_path / "state", tmp_path / "disk").make(["DFW"])
    untold = StateDirectory(tmp_path / "state")
    with pytest.raises(SetupError, match=f"the store of DFW lies in {tmp_path / 'disk'}: say --store-dir"):
        untold.store("DFW")
    with pytest.raises(SetupError, match="say --store-dir"):
        untold.make(["DFW"])
    assert StateDirectory(tmp_path / "state", tmp_path / "moved").store("DFW") == tmp_path / "moved" / "DFW"
    assert untold.store("IAD") == tmp_path / "state" / "regions" / "IAD" / "store"


def test_an_owner_is_known_as_long_as_its_lock_is_held(tmp_path: Path) -> None:
    """To the very end: who waits for the lock by its owner must not think it free before it is."""
    state = StateDirectory(tmp_path)
    state.make()
    code = (
        "import sys; from pathlib import Path; from snaphold.wiring.state_directory import StateDirectory\n"
        "with StateDirectory(Path(sys.argv[1])).lock('serve'): print('locked', flush=True); sys.stdin.read()\n"
    )
    words = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        assert state.owner("serve") == other.pid
        with (tmp_path / "serve.lock").open("r+") as file:
            other.communicate()
            fcntl.flock(file, fcntl.LOCK_EX)
            assert file.read().strip() == str(other.pid)
    assert state.owner("serve") is None


def test_the_lock_of_another_process(tmp_path: Path) -> None:
    """One process of a kind works on a state directory; its end, however it comes, frees the directory."""
    state = StateDirectory(tmp_path)
    state.make()
    code = (
        "import sys; from pathlib import Path; from snaphold.wiring.state_directory import StateDirectory\n"
        "with StateDirectory(Path(sys.argv[1])).lock('serve'):\n    print('locked', flush=True); sys.stdin.read()"
    )
    words = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        assert state.owner("serve") == other.pid
        with pytest.raises(SetupError, match=f"process {other.pid}"), state.lock("serve"):
            pytest.fail("locked twice")
        other.kill()
    assert state.owner("serve") is None
    with state.lock("serve"):
        assert state.owner("agent") is None


@pytest.mark.parametrize("kept", ["", "\n"])
def test_an_empty_secret_is_none(tmp_path: Path, kept: str) -> None:
    """What a power failure left of a region's secret lets nobody in: another one is made, and stays."""
    state = StateDirectory(tmp_path)
    state.make(["DFW"])
    state.peer_token("DFW").write_text(kept)
    token = peer_token(state, "DFW")
    assert len(token) > 30
    assert peer_token(state, "DFW") == token
    assert state.peer_token("DFW").stat().st_mode & 0o777 == 0o600


def test_several_answer_for_a_region_but_not_while_its_record_is_replaced(tmp_path: Path) -> None:
    """APIs of one region run beside each other; they and whoever replaces its record keep each other out."""
    state = StateDirectory(tmp_path)
    state.make(["DFW"])
    answers = pytest.raises(SetupError, match=r"an API of region DFW is running on .*: stop it$")
    with state.answering("DFW"), state.answering("DFW"), answers, state.without_service("DFW"):
        pytest.fail("replaced under an API")
    with state.without_service("DFW"):
        with pytest.raises(SetupError, match=r"region DFW .* is being replaced"), state.answering("DFW"):
            pytest.fail("answered meanwhile")
        with pytest.raises(SetupError, match=rf"\(process {os.getpid()}\)"), state.without_service("DFW"):
            pytest.fail("replaced twice")
    with state.answering("DFW"):
        pass
