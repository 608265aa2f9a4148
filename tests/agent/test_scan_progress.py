"""How much of an instance a running increment has looked at."""

from pathlib import Path

from snaphold.agent.scan_progress import ScanProgress
from snaphold.disk import file_used_bytes
from snaphold.formats.xbstream import Watch
from tests.stream.xb import end, payload, whole


def test_files_count_once_they_are_complete(tmp_path: Path) -> None:
    """A file counts as what it takes in the source, once; logs, and what the source does not have, count nothing."""
    (tmp_path / "shop").mkdir()
    sizes: dict[str, int] = {}
    for name in ("shop/a.ibd", "shop/b.ibd", "shop/c.MYD", "ib_logfile0"):
        (tmp_path / name).write_bytes(b"x" * (1 + len(sizes)) * 5000)
        sizes[name] = (tmp_path / name).stat().st_blocks * 512
    watch = Watch()
    scanned = ScanProgress(tmp_path, watch)
    assert scanned.bytes() == 0
    watch.feed(payload("ib_logfile0", b"1") + payload("shop/a.ibd.delta", b"1") + whole("shop/a.ibd.meta", b"1"))
    assert scanned.bytes() == 0
    watch.feed(end("shop/a.ibd.delta") + payload("shop/b.ibd.delta", b"1"))
    assert scanned.bytes() == scanned.bytes() == sizes["shop/a.ibd"]
    watch.feed(
        end("shop/b.ibd.delta") + whole("shop/c.MYD", b"1") + whole("xtrabackup_info", b"1") + end("ib_logfile0")
    )
    assert scanned.bytes() == sum(sizes.values()) - sizes["ib_logfile0"]


def test_what_cannot_be_seen_counts_nothing(tmp_path: Path) -> None:
    """Whatever lies where a file should be: progress is told, and no backup ends by it."""
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    (tmp_path / "directory").mkdir()
    for name in ("missing", "loop/t.ibd", "file/t.ibd", "directory"):
        assert file_used_bytes(tmp_path, name) == 0
