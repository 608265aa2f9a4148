"""What MariaDB's stream says of itself, and when it is not believed. The bytes are as 10.11.19 writes them."""

import itertools
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from snaphold.engines.base import ServerAccess
from snaphold.engines.mariadb.tool import (
    CHECKPOINT_TIMEOUT_S,
    checkpoint_in_a_quiet_period,
    metadata_from,
    start_checkpoint,
)
from snaphold.errors import Permanent, Unavailable

CHECKPOINTS = b"backup_type = full-backuped\nfrom_lsn = %d\nto_lsn = %d\nlast_lsn = %d\nrecover_binlog_info = 0\n"
INFO = (
    b"uuid = 8de39840\ntool_name = mariabackup\ntool_command = --backup --stream=xbstream\n"
    b"tool_version = 10.11.19-MariaDB\nserver_version = 10.11.18-MariaDB-0+deb12u1\n"
    b"binlog_pos = filename 'bin.000007', position '1234', GTID of the last change '0-1-99'\n"
)


def _redo(*checkpoints: int) -> bytes:
    header = bytearray(b"Phys" + bytes(0x3000 - 4))
    for offset, lsn in zip((0x1000, 0x2000), checkpoints, strict=True):
        struct.pack_into(">Q", header, offset, lsn)
    return bytes(header)


def _captured(start: int, to: int, last: int, checkpoint: int) -> dict[str, bytes]:
    return {
        "xtrabackup_checkpoints": CHECKPOINTS % (start, to, last),
        "xtrabackup_info": INFO,
        "ib_logfile0": _redo(0, checkpoint),
    }


def test_the_facts_of_a_full_backup() -> None:
    """A full starts nowhere; versions lose what the packager added; the position in the binary log is taken apart."""
    taken = metadata_from(_captured(0, 500, 510, 400), None)
    assert (taken.from_lsn, taken.checkpoint_lsn, taken.to_lsn, taken.last_lsn) == (None, 400, 500, 510)
    assert (taken.server_version, taken.tool_version) == ("10.11.18", "10.11.19")
    assert (taken.gtid, taken.binlog_file, taken.binlog_position) == ("0-1-99", "bin.000007", 1234)


def test_the_names_of_later_versions_are_known() -> None:
    """MariaDB 11 gives the small files other names and nothing else."""
    captured = _captured(0, 500, 510, 400)
    later = {name.replace("xtrabackup", "mariadb_backup"): text for name, text in captured.items()}
    assert metadata_from(later, None) == metadata_from(captured, None)


@pytest.mark.parametrize(
    ("captured", "parent_lsn"),
    [
        (_captured(600, 500, 510, 400), 600),
        (_captured(0, 500, 490, 400), None),
        (_captured(0, 500, 510, 501), None),
        (_captured(0, 500, 510, 0), None),
        (_captured(300, 500, 510, 400), None),
        (_captured(300, 500, 510, 400), 301),
        (_captured(0, 500, 510, 400) | {"ib_logfile0": b"Phys"}, None),
        (_captured(0, 500, 510, 400) | {"xtrabackup_checkpoints": b"to_lsn = many"}, None),
        (_captured(0, 500, 510, 400) | {"xtrabackup_info": b"server_version = \ntool_version = x"}, None),
        ({}, None),
    ],
    ids=[
        "ends before it starts",
        "last before its end",
        "checkpoint after its end",
        "no checkpoint",
        "a full that starts somewhere",
        "another parent",
        "redo log cut",
        "checkpoints garbled",
        "no versions",
        "nothing",
    ],
)
def test_facts_that_do_not_fit_are_no_backup(captured: dict[str, bytes], parent_lsn: int | None) -> None:
    """Exit status 0 and ``completed OK!`` verify nothing when the stream contradicts itself."""
    with pytest.raises(Permanent):
        metadata_from(captured, parent_lsn)


@pytest.mark.parametrize("order", [(7, 9), (9, 7), (9, 0)])
def test_the_newer_checkpoint_counts(order: tuple[int, int]) -> None:
    """The server writes its two checkpoints in turn."""
    assert start_checkpoint(_redo(*order)) == 9


def test_an_older_redo_log_is_not_guessed_at() -> None:
    """Before 10.8 the header was another."""
    with pytest.raises(Permanent, match="unknown format"):
        start_checkpoint(bytes(0x3000))


class Log:
    """A server that says only where its log is, and hears what else it is asked for.

    ``age_bytes``: of the log that came after its last checkpoint. ``answer_s``: how long each answer takes.
    """

    def __init__(self, positions: Iterator[int], age_bytes: int | None = 1 << 20, answer_s: float = 0) -> None:
        self.heard: list[float] = []
        self._positions = positions
        self._age_bytes = age_bytes
        self._answer_s = answer_s

    def __call__(self, statement: str, _: float) -> list[tuple[Any, ...]]:
        """Answer."""
        time.sleep(self._answer_s)
        if "Innodb_lsn_current" in statement:
            return [("Innodb_lsn_current", str(next(self._positions)))]
        if "Innodb_checkpoint_age" in statement:
            return [] if self._age_bytes is None else [("Innodb_checkpoint_age", str(self._age_bytes))]
        raise AssertionError(statement)

    def checkpoint(self, timeout_s: float) -> None:
        """Write down that it was asked, and fail."""
        self.heard.append(timeout_s)
        raise Unavailable("it does not answer")

    def access(self) -> ServerAccess:
        """The way to it."""
        nowhere = Path("/nowhere")
        return ServerAccess(
            data_directory=nowhere, socket=nowhere, defaults_file=nowhere, uid=None, gid=None, scratch=nowhere,
            messages=nowhere, administer=self, administer_as_tool=self, checkpoint=self.checkpoint,
        )  # fmt: skip


@pytest.mark.parametrize(("before", "answer_s"), [(0, 0), (5, 0), (0, 0.6)], ids=["at once", "soon", "slow answers"])
def test_a_checkpoint_in_a_lull(before: int, answer_s: float) -> None:
    """A server that changes nothing more is asked for a checkpoint, once; that it gives none is no failure."""
    log = Log(itertools.chain(range(before), itertools.repeat(before)), answer_s=answer_s)
    checkpoint_in_a_quiet_period(log.access())
    assert log.heard == [CHECKPOINT_TIMEOUT_S]


@pytest.mark.parametrize(("age_bytes", "asked"), [(16, False), (1024, False), (1025, True)])
def test_no_checkpoint_right_after_one(age_bytes: int, *, asked: bool) -> None:
    """A server whose last checkpoint is at its newest change is neither asked for another nor waited for."""
    log = Log(itertools.repeat(5) if asked else iter(()), age_bytes)
    checkpoint_in_a_quiet_period(log.access())
    assert bool(log.heard) is asked


def test_no_checkpoint_of_a_server_that_does_not_tell_how_old_the_last_one_is() -> None:
    """The backup is as good without."""
    log = Log(iter(()), None)
    checkpoint_in_a_quiet_period(log.access())
    assert log.heard == []


def test_no_checkpoint_where_two_slow_answers_are_equal() -> None:
    """A quiet period is as long as from one answer to the next question, not to the next answer."""
    log = Log(itertools.chain([5, 5], itertools.count(6)), answer_s=0.12)
    checkpoint_in_a_quiet_period(log.access())
    assert log.heard == []


@pytest.mark.parametrize("answer_s", [0, 0.12], ids=["quick answers", "slow answers"])
def test_no_checkpoint_under_steady_writes(answer_s: float) -> None:
    """A server that changes all the time would never end it, and is not asked; the backup begins soon all the same."""
    log, begun = Log(itertools.count(), answer_s=answer_s), time.monotonic()
    checkpoint_in_a_quiet_period(log.access())
    assert log.heard == []
    assert time.monotonic() - begun < 10


def test_more_tables_than_files_may_be_open(tmp_path: Path) -> None:
    """A hard limit of open files that is too low is told before the tool is started, with what is needed."""
    (tmp_path / "shop").mkdir()
    for number in range(100):
        (tmp_path / "shop" / f"t{number}.ibd").touch()
    script = (
        "import sys; from pathlib import Path\n"
        "from snaphold.engines.mariadb.tool import _refuse_too_many_files as refuse\n"
        "try: refuse(Path(sys.argv[1]))\n"
        "except Exception as error: print(error)\n"
    )
    limited = ["bash", "-c", 'ulimit -n 131; exec "$@"', "-", sys.executable, "-c", script, str(tmp_path)]
    said = subprocess.run(limited, capture_output=True, text=True, check=True).stdout
    assert said == "the backup tool needs 132 open files, one for each table, and its host allows 131\n"
