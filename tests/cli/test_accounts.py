"""``snaphold account`` and ``snaphold host``, as an operator and a script use them."""

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from snaphold.config import Settings
from snaphold.errors import Unauthorized
from snaphold.identity.embedded import open_embedded
from snaphold.service.host_registry import authenticate_host
from snaphold.wiring.deployment import opened_deployment
from snaphold.wiring.state_directory import StateDirectory
from tests.cli.test_options import snaphold

Run = Callable[..., Any]


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    """A state directory with the region DFW."""
    state = StateDirectory(tmp_path / "state")
    state.make(["DFW"])
    return state


@pytest.fixture
def run(state: StateDirectory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command that must succeed: the JSON that it prints, or None where ``text`` is wanted, which it is then."""

    def run(*words: str, text: bool = False) -> Any:
        capsys.readouterr()
        assert snaphold(monkeypatch, *words, *([] if text else ["--json"]), "--state-dir", state.path) == 0
        said = capsys.readouterr().out
        return said if text else json.loads(said)

    return run


def test_the_life_of_a_user(run: Run, state: StateDirectory) -> None:
    """Added, listed, given keys and another password, disabled, enabled, removed; each as JSON for scripts."""
    added = json.loads(run("account", "add", "1234", "--user", "demo", "--password", "secret", text=True))
    assert set(added) == {"account", "user", "api_key"}
    key = json.loads(run("account", "key", "add", "1234", "--user", "demo", text=True))
    with closing(open_embedded(state.path, 3600)) as identity:
        identity.authenticate_api_key("demo", key["api_key"], None)
        identity.authenticate_password("demo", "secret", None)
        (listed,) = run("account", "list")
        facts = {"account": "1234", "user": "demo", "state": "enabled", "roles": [], "api_keys": 2, "tokens": 2}
        assert facts.items() <= listed.items()
        ids = [one["id"] for one in run("account", "key", "list", "1234", "--user", "demo")]
        assert key["id"] in ids
        assert run("account", "key", "remove", "1234", key["id"], "--user", "demo")["tokens_ended"] == 1
        assert run("account", "password", "1234", "--user", "demo", "--password", "new")["tokens_ended"] == 1
        token = identity.authenticate_password("demo", "new", None).token
        assert run("account", "disable", "1234", "--user", "demo")["tokens_ended"] == 1
        assert run("account", "list", "1234")[0]["state"] == "disabled"
        with pytest.raises(Unauthorized):
            identity.validate(token)
        run("account", "enable", "1234", "--user", "demo")
        identity.authenticate_password("demo", "new", None)
        assert run("account", "end-tokens", "1234")["tokens_ended"] == 1
    assert run("account", "remove", "1234") == {"account": "1234", "users_removed": ["demo"]}
    assert run("account", "list") == []


def test_what_a_person_reads(run: Run) -> None:
    """Tables and sentences, without secrets."""
    run("account", "add", "1234", "--user", "demo", "--password", "secret", text=True)
    table = run("account", "list", text=True).splitlines()
    assert table[0].split()[:3] == ["ACCOUNT", "USER", "STATE"]
    assert table[1].split()[:3] == ["1234", "demo", "enabled"]
    said = run("account", "disable", "1234", text=True)
    assert said == "account 1234 is disabled; tokens ended: 0\n"
    assert "account disabled" in run("account", "list", text=True)
    said = run("account", "remove", "1234", text=True)
    assert said == "account 1234 is removed; its instances and backups stay\n"


@pytest.mark.parametrize(
    "words",
    [
        ("account", "list", "none"),
        ("account", "disable", "none"),
        ("account", "remove", "1234", "--user", "none"),
        ("account", "password", "1234", "--user", "none", "--password", "x"),
        ("account", "key", "remove", "1234", "none", "--user", "demo"),
        ("host", "remove", "none"),
    ],
    ids=" ".join,
)
def test_what_is_not_there(
    words: tuple[str, ...], run: Run, state: StateDirectory, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A mistyped name is one line on standard error and exit status 1."""
    run("account", "add", "1234", "--user", "demo", "--password", "secret", text=True)
    assert snaphold(monkeypatch, *words, "--state-dir", state.path) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_the_life_of_a_host(run: Run, state: StateDirectory) -> None:
    """Added, listed and removed; its token is good until then."""
    token = json.loads(run("host", "add", "h1", text=True))["token"]
    assert [(one["host"], one["state"], one["instances"]) for one in run("host", "list")] == [("h1", "never seen", 0)]
    with opened_deployment(Settings(), state, "DFW") as deployment:
        authenticate_host(deployment, token)
        assert run("host", "remove", "h1") == {"host": "h1", "region": "DFW", "instances_forgotten": []}
        with pytest.raises(Unauthorized):
            authenticate_host(deployment, token)
    assert run("host", "list") == []
