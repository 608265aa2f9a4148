"""``snaphold catalog``, after the loss of ``catalog.db``."""

import json
from pathlib import Path

import pytest

from snaphold.store.local import LocalStores
from snaphold.wiring.state_directory import StateDirectory
from tests.cli.test_options import snaphold
from tests.support.manifests import a_backup_record, put_backup
from tests.support.region import ACCOUNT


def test_the_catalog_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A rebuild that makes nothing of what is there fails and names the option that it takes; with it all is back."""
    state = StateDirectory(tmp_path / "state")
    state.make(["DFW"])
    store = LocalStores(state.store("DFW")).of(ACCOUNT)
    full = put_backup(store, a_backup_record(1), "lost-one")
    increment = put_backup(store, a_backup_record(2, full), "lost-one", full)
    words = ("catalog", "rebuild", "--state-dir", state.path)
    assert snaphold(monkeypatch, *words) == 1
    said = capsys.readouterr()
    assert json.loads(said.out)["other_deployments"] == {"lost-one": 2}
    assert "catalog rebuild --region DFW --deployment lost-one" in said.err
    assert snaphold(monkeypatch, *words, "--deployment", "lost-one") == 0
    made = json.loads(capsys.readouterr().out)["made"]
    assert {one["id"] for one in made} == {full.id, increment.id}


def test_a_store_in_which_nothing_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """There was nothing to make: no error."""
    StateDirectory(tmp_path).make(["DFW"])
    assert snaphold(monkeypatch, "catalog", "rebuild", "--state-dir", tmp_path) == 0
    assert json.loads(capsys.readouterr().out)["made"] == []
