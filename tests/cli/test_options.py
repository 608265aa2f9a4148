import json
import sys
from pathlib import Path

import pytest

from snaphold import __version__
from snaphold.cli import main
from snaphold.cli.options import Given, with_settings
from snaphold.config import FILE_ONLY, Settings
from snaphold.wiring.state_directory import StateDirectory


@pytest.fixture(autouse=True)
def no_settings_of_mine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of whoever runs the tests sets nothing."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"SNAPHOLD_{name.upper()}", raising=False)


def snaphold(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> int:
    """Run the command line in this process; the exit status."""
    monkeypatch.setattr(sys, "argv", ["snaphold", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_a_flag_beats_the_file_and_the_file_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flags, then the file, then the environment."""
    config = tmp_path / "snaphold.toml"
    config.write_text("lease_s = 7\nrenew_s = 3\n")
    monkeypatch.setenv("SNAPHOLD_LEASE_S", "1")
    monkeypatch.setenv("SNAPHOLD_AGENT_TASKS", "2")
    seen: list[Given] = []
    with_settings(seen.append)(config=config, renew_s="4")
    settings = seen[0].settings
    assert (settings.lease_s, settings.renew_s, settings.agent_tasks) == (7, 4, 2)


def test_words_for_another_process_give_the_same_settings(tmp_path: Path) -> None:
    """A process that we start has our flags, but for those that it gets instead."""
    config = tmp_path / "snaphold.toml"
    config.write_text("lease_s = 70\n")
    seen: list[Given] = []
    with_settings(seen.append)(config=config, region=["DFW=127.0.0.1:1", "IAD=127.0.0.1:2"], log_level="debug")
    assert [
        f"--config={config}",
        "--region=DFW=127.0.0.1:1",
        "--log-level=debug",
        f"--state-dir={tmp_path}",
    ] == seen[0].argv(region=["DFW=127.0.0.1:1"], state_dir=tmp_path)


@pytest.mark.parametrize(
    "words",
    [
        ("serve", "--region", "DFW=127.0.0.1:1"),
        ("serve", "--state-dir", "x"),
        ("serve", "--state-dir", "x", "--region", "DFW"),
        ("serve", "--state-dir", "x", "--lease-s", "soon"),
        ("serve", "--state-dir", "x", "--config", "none.toml"),
        ("serve", "--state-dir", "x", "--region", "DFW=127.0.0.1:1", "--compression-level", "9"),
        ("stop", "--state-dir", "x"),
        ("host", "add", "h1", "--state-dir", "x"),
        ("account", "add", "--state-dir", "x", "--create", "../1234", "--user", "demo", "--password", "secret"),
        ("account", "add", "--state-dir", "x", "--create", "1234", "--user", "demo", "--password", "s", "--role", "k"),
    ],
    ids=" ".join,
)
def test_what_the_operator_can_mend(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mistake in the set-up is one line on standard error and exit status 1, without a traceback."""
    monkeypatch.chdir(tmp_path)
    assert snaphold(monkeypatch, *words) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("snaphold: ")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize("place", ["s3://bucket/x", "file:///srv/x", "swift:/container", "swift:x", "s3:bucket", ""])
@pytest.mark.parametrize("setting", ["state_dir", "store_dir", "engine_dir", "encryption_key_file"])
def test_a_path_is_no_url(
    setting: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A directory that is named by a URL, or by nothing, is refused by its setting's name, and nothing is made."""
    monkeypatch.chdir(tmp_path)
    words = {"state_dir": "x", "region": "DFW=127.0.0.1:1", setting: place}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in words.items()]
    assert snaphold(monkeypatch, "serve", *flags) == 1
    assert capsys.readouterr().err.startswith(f"snaphold: the setting {setting} does not fit: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("below", ["", "/a/b", "/DFW"])
def test_a_store_that_is_no_directory(
    below: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A store directory that is a file, or would be below one, is refused in one line, and nothing is made."""
    (tmp_path / "file").touch()
    words = ["--state-dir", str(tmp_path / "state"), "--store-dir", f"{tmp_path}/file{below}"]
    assert snaphold(monkeypatch, "serve", *words, "--region", "DFW=127.0.0.1:1") == 1
    said = capsys.readouterr().err
    assert said == f"snaphold: {tmp_path}/file is not a directory, so no store can be made there (--store-dir)\n"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_help_names_each_option(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """On a terminal of 80 columns the help of ``serve`` cuts the name of no option."""
    monkeypatch.setenv("COLUMNS", "80")
    assert snaphold(monkeypatch, "serve", "--help") == 0
    said = capsys.readouterr().out
    names = [f"--{name.replace('_', '-')}" for name in Settings.model_fields if name not in FILE_ONLY]
    assert [name for name in names if f"{name} " not in said] == []


@pytest.mark.parametrize("word", ["--version", "version"])
def test_version(word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Both ways of asking for the release are answered."""
    assert snaphold(monkeypatch, word) == 0
    assert capsys.readouterr().out == f"snaphold {__version__}\n"


def test_an_account_by_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The password can come by standard input; what is printed ends with JSON, and the password is not in it."""
    (tmp_path / "password").write_text("a pass phrase\n")
    with (tmp_path / "password").open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        words = ["account", "add", "--state-dir", str(tmp_path / "state"), "--create", "1234", "--user", "demo"]
        assert snaphold(monkeypatch, *words, "--role", "dbaas:observer") == 0
    said = capsys.readouterr()
    assert {"account": "1234", "user": "demo"}.items() <= json.loads(said.out[said.out.index("{") :]).items()
    assert "pass phrase" not in said.out + said.err
    assert said.err == f"snaphold: the state directory {tmp_path / 'state'} was set up\n"


@pytest.mark.parametrize(
    "words",
    [
        ("account", "add", "1234", "--user", "demo", "--password", "secret"),
        ("host", "add", "h1"),
        ("catalog", "rebuild"),
        ("store", "check"),
        ("verify", "--all"),
        ("state", "backup"),
        ("state", "restore", "--region", "DFW"),
        ("agent", "--region", "DFW=127.0.0.1:1"),
        ("worker", "--region", "DFW=127.0.0.1:1"),
        ("stop",),
    ],
    ids=" ".join,
)
def test_a_mistyped_state_directory(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A command for a service that is there makes nothing where there is none, in whatever directory that is."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").touch()
    for directory in (other, tmp_path / "none"):
        assert snaphold(monkeypatch, *words, "--state-dir", directory) == 1
    assert [path.name for path in sorted(tmp_path.rglob("*"))] == ["other", "notes.txt"]
    assert str(other) in capsys.readouterr().err


def test_a_mistyped_store_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that looks into a store which is not there is refused: an empty one would say that all is lost."""
    StateDirectory(tmp_path / "state", tmp_path / "disk").make(["DFW"])
    words = ("catalog", "rebuild", "--state-dir", tmp_path / "state", "--store-dir", tmp_path / "disc")
    assert snaphold(monkeypatch, *words) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
