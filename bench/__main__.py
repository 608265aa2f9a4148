"""make bench: POST to COMPLETED and POST to ACTIVE, beside what one would type with the plain tools.

    mariabackup --backup --stream=xbstream | gzip > file
    gzip -dc file | mbstream -x -C directory; mariabackup --prepare --target-dir=directory

Same server, same data (fixed seed), same disk, in one run, in turn. The best of each is compared and the spread is
shown. ``bench/results.md`` gets the figures and what machine it was.
"""

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from bench import data
from bench.plain import PlainTools
from bench.service import Service
from snaphold.engines.installation import find_installation

DEPTH: Final = 10  # increments of the chain
RESULTS: Final = Path(__file__).parent / "results.md"


@dataclass
class Row:
    """One thing measured, ours beside theirs, in seconds."""

    name: str
    ours: list[float] = field(default_factory=list)
    plain: list[float] = field(default_factory=list)

    def text(self) -> str:
        """A row of the table."""
        ratio = f"{min(self.plain) / min(self.ours):.2f}" if self.plain else "-"
        return f"| {self.name} | {_spread(self.ours)} | {_spread(self.plain)} | {ratio} |"


def main() -> None:
    """Measure, print, write the results down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.0, help="size of the large instance")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each")
    parser.add_argument("--directory", type=Path, help="where to work; default: the system's temporary directory")
    options = parser.parse_args()
    with Service(options.directory) as service:
        small = measure(service, "empty instance", 0, options.rounds)
        large = measure(service, f"{options.gigabytes:g} GB", options.gigabytes, options.rounds)
        chain = measure_chain(service, f"{options.gigabytes:g} GB", options.gigabytes, options.rounds)
    page = results([*small, *large, *chain], options.rounds)
    sys.stdout.write(page)
    RESULTS.write_text(page, "utf-8")


def measure(service: Service, name: str, gigabytes: float, rounds: int) -> Sequence[Row]:
    """Backup and restore of one instance, ours and theirs in turn."""
    volume_gb = max(1, int(gigabytes * 3) + 1)
    instance = service.create(volume_gb, **data.definition())
    if gigabytes:
        sys.stderr.write(f"{name}: filled in {data.fill(instance, gigabytes):.0f} s\n")
    plain = PlainTools(find_installation(None), service.state_dir, instance["id"])
    backup, restore = Row(f"backup, {name}"), Row(f"restore, {name}")
    for _ in range(rounds):
        backup.plain.append(plain.back_up())
        seconds, made = timed(partial(service.back_up, instance))
        backup.ours.append(seconds)
        restore.plain.append(plain.restore())
        seconds, restored = timed(partial(service.create, volume_gb, restorePoint={"backupRef": made["id"]}))
        restore.ours.append(seconds)
        service.delete(f"/instances/{restored['id']}")
        service.delete(f"/backups/{made['id']}")
        sys.stderr.write(f"{backup.text()}\n{restore.text()}\n")
    service.delete(f"/instances/{instance['id']}")
    return [backup, restore]


def measure_chain(service: Service, name: str, gigabytes: float, rounds: int) -> Sequence[Row]:
    """Increments beside the full backup below them, and a chain's restore beside the full's alone and one in turn."""
    volume_gb = max(1, int(gigabytes * 3) + 1)
    instance = service.create(volume_gb, **data.definition())
    data.fill(instance, gigabytes)
    plain = PlainTools(find_installation(None), service.state_dir, instance["id"])
    taken = Row(f"increment at 1 %, {name}; beside: snaphold's own full")
    deep = Row(f"restore of depth {DEPTH}, {name}; beside: snaphold's own full alone")
    in_turn = Row(f"restore of depth {DEPTH}, {name}; beside: the increments in turn")
    seconds, made = timed(partial(service.back_up, instance))
    taken.plain.append(seconds)
    ids = [made["id"]]
    for number in range(DEPTH):
        data.change(instance, number)
        seconds, made = timed(partial(service.back_up, instance, ids[-1]))
        taken.ours.append(seconds)
        ids.append(made["id"])
    for _ in range(rounds):
        for row, backup_id in ((deep.plain, ids[0]), (deep.ours, ids[-1])):
            seconds, restored = timed(partial(service.create, volume_gb, restorePoint={"backupRef": backup_id}))
            row.append(seconds)
            service.delete(f"/instances/{restored['id']}")
        in_turn.plain.append(plain.restore_in_turn(service.objects(ids)))
    in_turn.ours.extend(deep.ours)
    service.delete(f"/backups/{ids[0]}")
    service.delete(f"/instances/{instance['id']}")
    return [taken, deep, in_turn]


def timed(action: Callable[[], dict[str, Any]]) -> tuple[float, dict[str, Any]]:
    """The seconds that something took, and what came of it."""
    began = time.monotonic()
    result = action()
    return time.monotonic() - began, result


def results(rows: Sequence[Row], rounds: int) -> str:
    """The page of results."""
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {memory_gb:.0f} GiB"
    version = find_installation(None).version
    return "\n".join([
        "# Measured beside the plain tools",
        "",
        f"{machine}, Python {platform.python_version()}, MariaDB {version}. Seconds, best of {rounds} rounds in turn",
        "(and the worst). snaphold: POST to COMPLETED or ACTIVE, synced to the disk, the server answering. Plain:",
        "`mariabackup --stream=xbstream | gzip`; `gzip -dc | mbstream -x` and `--prepare`, no server started.",
        "",
        "| what | snaphold | plain tools | times faster |",
        "| --- | --- | --- | --- |",
        *(row.text() for row in rows),
        "",
    ])  # fmt: skip


def _spread(seconds: Sequence[float]) -> str:
    return f"{min(seconds):.2f} ({max(seconds):.2f})" if seconds else "-"


if __name__ == "__main__":
    main()
