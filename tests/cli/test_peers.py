from pathlib import Path

import pytest

from snaphold.config import PeerSettings, Settings, load_settings
from snaphold.errors import SetupError
from snaphold.wiring.peers import peer_registry_of
from snaphold.wiring.secrets import peer_token
from snaphold.wiring.state_directory import StateDirectory, parse_regions

REGIONS = parse_regions(["DFW=127.0.0.1:1", "IAD=127.0.0.1:2"])


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    """A state directory of two regions."""
    state = StateDirectory(tmp_path / "state")
    state.make(["DFW", "IAD"])
    return state


def settings_of(directory: Path, **secrets: str) -> Settings:
    """Settings from a file with these peers and their secrets."""
    lines = []
    for name, secret in secrets.items():
        path = directory / f"{name}.secret"
        path.write_text(secret + "\n")
        lines += [f"[peers.{name}]", 'url = "https://backups.example"', f'secret_file = "{path}"']
    config = directory / "snaphold.toml"
    config.write_text("\n".join(lines))
    return load_settings({}, config, {})


def test_whose_secret_it_is(state: StateDirectory, tmp_path: Path) -> None:
    """Each peer's secret speaks for that peer, the state directory's token for the regions beside; no other does."""
    settings = settings_of(tmp_path, ORD="o" * 20, SYD="s" * 20, HKG="s" * 20)
    neighbours = peer_registry_of(settings.peers, state, REGIONS, "DFW")
    assert neighbours.regions_of("o" * 20) == {"ORD"}
    assert neighbours.regions_of("s" * 20) == {"SYD", "HKG"}
    assert neighbours.regions_of(peer_token(state, "DFW")) == {"IAD"}
    for wrong in ("", "o" * 19, "o" * 21, peer_token(state, "IAD")):
        assert neighbours.regions_of(wrong) == set()
    (tmp_path / "ORD.secret").unlink()
    for wrong in ("", "o" * 20):
        assert neighbours.regions_of(wrong) == set()


def test_copies_go_where_the_settings_say(state: StateDirectory, tmp_path: Path) -> None:
    """To the regions beside and to the peers, and to no other."""
    settings = settings_of(tmp_path, ORD="o" * 20)
    neighbours = peer_registry_of(settings.peers, state, REGIONS, "DFW")
    assert set(neighbours.clients()) == set(neighbours.stores()) == {"IAD", "ORD"}


@pytest.mark.parametrize(("name", "secret", "complaint"), [
    ("ORD", "short", "has fewer than 20 characters"),
    ("ORD", "", "has fewer than 20 characters"),
    ("iad", "s" * 20, "is a region of this state directory already"),
])  # fmt: skip
def test_a_peer_that_cannot_be(state: StateDirectory, tmp_path: Path, name: str, secret: str, complaint: str) -> None:
    """A secret that is missing or short, and a name that is served here, keep the service from starting."""
    settings = settings_of(tmp_path, **{name: secret})
    with pytest.raises(SetupError, match=complaint):
        peer_registry_of(settings.peers, state, REGIONS, "DFW")


@pytest.mark.parametrize("text", [
    '[peers.ORD]\nurl = "backups.example"\nsecret_file = "s"',
    '[peers.ORD]\nurl = "https://backups.example/v1.0"\nsecret_file = "s"',
    '[peers.ORD]\nurl = "https://backups.example"',
    '[peers.ORD]\nurl = "https://backups.example"\nsecret_file = "s"\nsecret = "x"',
    '[peers."O D"]\nurl = "https://backups.example"\nsecret_file = "s"',
])  # fmt: skip
def test_settings_of_a_peer_that_do_not_fit(tmp_path: Path, text: str) -> None:
    """Unknown keys, missing ones, another form of URL or name are refused."""
    config = tmp_path / "snaphold.toml"
    config.write_text(text)
    with pytest.raises(SetupError, match="peers"):
        load_settings({}, config, {})


def test_peers_stand_in_the_file_only() -> None:
    """The environment cannot name them."""
    with pytest.raises(SetupError, match="can be set in the settings file only"):
        load_settings({}, None, {"SNAPHOLD_PEERS": "ORD"})


def test_a_mounted_store(state: StateDirectory, tmp_path: Path) -> None:
    """Where a peer's store is mounted here, its objects are written there directly."""
    (tmp_path / "s").write_text("o" * 20)
    peer = PeerSettings(url="https://backups.example", secret_file=tmp_path / "s", store_dir=tmp_path / "ord")
    peer_registry_of({"ORD": peer}, state, REGIONS, "DFW").stores()["ORD"].of("1234").put("a", b"x")
    assert (tmp_path / "ord" / "1234" / "z_CLOUDDB_BACKUPS" / "a").read_bytes() == b"x"
