"""make bench: measures snaphold, the plain tools and the machine's limit in one run.

    mariabackup --backup --stream=xbstream | gzip > file          what OpenStack Trove runs
    gzip -dc file | mbstream -x -C directory; mariabackup --prepare --target-dir=directory; and a server on it

All use the same server, data (fixed seed) and disk, in turn, while the service that is not measured is paused. The best
results are compared; the worst are shown in brackets. ``bench/results.md`` has the figures and describes the machine.
"""

import argparse
import itertools
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from bench import data, limits
from bench.api import fill_catalog, requests_per_s
from bench.memory import Memory
from bench.plain import GZIP, IGZIP, PlainTools
from bench.service import ACCOUNT, Service
from bench.writers import Writer
from snaphold.engines.mariadb.installation import find_installation

Result = TypeVar("Result")
DEPTH: Final = 10  # increments of the chain
RESULTS: Final = Path(__file__).parent / "results.md"
MEGABYTE: Final = 1 << 20


@dataclass
class Row:
    """A measurement and what it is compared with: two lists of seconds, or of other figures of one unit."""

    name: str
    beside: str
    target: str
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    ratio: Callable[[float, float], float] = lambda ours, theirs: ours / theirs
    best: Callable[[Sequence[float]], float] = min

    def text(self) -> str:
        """A row of the table."""
        compared = f"{self.ratio(self.best(self.ours), self.best(self.theirs)):.2f}" if self.theirs else "-"
        ours, theirs = self._spread(self.ours), self._spread(self.theirs)
        return f"| {self.name} | {ours} | {self.beside} | {theirs} | {compared} | {self.target} |"

    def _spread(self, figures: Sequence[float]) -> str:
        if not figures:
            return "-"
        worst = max if self.best is min else min
        return f"{self.best(figures):.4g} ({worst(figures):.4g})"


def times_faster(ours: float, theirs: float) -> float:
    """The ratio for targets of the form "n times faster"."""
    return theirs / ours


def main() -> None:
    """Measure, print the results, and write them to ``bench/results.md``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.0, help="size of the large instance")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each")
    parser.add_argument("--rows", type=int, default=1_000_000, help="backups in the catalog, for the API's rates")
    parser.add_argument("--directory", type=Path, help="where to work; default: the system's temporary directory")
    options = parser.parse_args()
    rows: list[Row] = []
    with ExitStack() as stack:
        plain_service = stack.enter_context(Service(options.directory, "--verify-after-backup=none"))
        verifying = stack.enter_context(Service(options.directory, far=True))
        parts = itertools.chain(
            beside(plain_service, api(verifying, options.rows, options.rounds)),
            beside(plain_service, empty_instance(verifying, options.rounds)),
            large_instance(plain_service, verifying, options.gigabytes, options.rounds),
            beside(verifying, chain(plain_service, options.gigabytes, options.rounds)),
        )
        for row in parts:
            sys.stderr.write(f"{row.text()}\n")
            rows.append(row)
    page = results(rows, options.rounds, options.gigabytes)
    sys.stdout.write(page)
    RESULTS.write_text(page, "utf-8")


def beside(other: Service, rows: Iterator[Row]) -> Iterator[Row]:
    """Yield the rows while the other service is paused, so that it does not disturb the measurement."""
    with other.paused():
        yield from rows


def api(service: Service, count: int, rounds: int) -> Iterator[Row]:
    """Requests a second of one API process, with 1,000 backups in the catalog and with ``count``."""
    backup = service.back_up(instance := service.create(1))
    catalog = service.state_dir / "regions" / "DFW" / "catalog.db"
    shows = Row(
        "shows a second, 1,000 backups", f"{count:,} backups", "≥ 700; ratio ≥ 0.8", best=max, ratio=times_faster
    )
    lists = Row("lists of 20 a second", f"{count:,} backups", "≥ 350; ratio ≥ 0.8", best=max, ratio=times_faster)
    for figures, wanted in (("ours", 1000), ("theirs", count)):
        ids = fill_catalog(catalog, ACCOUNT, backup, wanted)
        paths = [f"/v1.0/{ACCOUNT}/backups/{name}" for name in ids]
        for _ in range(rounds):
            getattr(shows, figures).append(requests_per_s(service.port, paths, service.token))
            getattr(lists, figures).append(requests_per_s(service.port, [f"/v1.0/{ACCOUNT}/backups"], service.token))
    yield shows
    yield lists
    service.delete(f"/instances/{instance['id']}")


def empty_instance(service: Service, rounds: int) -> Iterator[Row]:
    """Measure the smallest backup and restore."""
    instance = service.create(1)
    backup, restore = Row("backup of an empty instance, s", "-", "≤ 1.0 s"), Row("its restore, s", "-", "≤ 2.0 s")
    for _ in range(rounds):
        seconds, made = timed(partial(service.back_up, instance))
        backup.ours.append(seconds)
        seconds, restored = timed(partial(service.create, 1, restorePoint={"backupRef": made["id"]}))
        restore.ours.append(seconds)
        service.delete(f"/instances/{restored['id']}")
        service.delete(f"/backups/{made['id']}")
    yield backup
    yield restore
    service.delete(f"/instances/{instance['id']}")


def large_instance(service: Service, verifying: Service, gigabytes: float, rounds: int) -> Iterator[Row]:
    """Backup and restore of a large instance, beside the tools and the limit; what writers feel; how much memory."""
    volume_gb = max(1, int(gigabytes * 3) + 1)
    instances = {part: part.create(volume_gb, **data.definition()) for part in (service, verifying)}
    for instance in instances.values():
        sys.stderr.write(f"{gigabytes:g} GB filled in {data.fill(instance, gigabytes):.0f} s\n")
    instance = instances[service]
    plain = PlainTools(find_installation(None), service.state_dir, instance["id"])
    plain.save_stream()
    against_gzip = Row("full backup, s", "mariabackup \\| gzip", "≥ 15 times faster", ratio=times_faster)
    against_igzip = Row("full backup, s", "mariabackup \\| igzip -1", "≥ 1.5 times faster", ratio=times_faster)
    stored = Row("stored, MB", "mariabackup \\| igzip -1", "≤ 1.02")
    against_limit = Row("full backup, s", "compressing alone", "≤ 1.25")
    verified = Row("full backup with objects verified, s", "without", "≤ 1.35")
    copied = Row("copy to another region, s", "cp and fsync of the data object", "≤ 1.3")
    cpu = Row("full backup, processor seconds", "compressing alone, wall times cores", "-")
    restored = Row("restore, s", "gzip -dc \\| mbstream -x, prepare, start", "≥ 2 times faster", ratio=times_faster)
    restore_limit = Row("restore, s", "the longer of decompressing and dd", "≤ 1.35")
    for number in range(rounds):
        with verifying.paused():
            if number < 2:  # it takes minutes, and is far from any limit
                against_gzip.theirs.append(plain.back_up(GZIP))
                restored.theirs.append(plain.restore())
            against_igzip.theirs.append(plain.back_up(IGZIP))
            stored.theirs.append(plain.archive.stat().st_size / MEGABYTE)
            before_s = service.agent_cpu_s()
            seconds, made = timed(partial(service.back_up, instance))
            cpu.ours.append(service.agent_cpu_s() - before_s)
            for row in (against_gzip, against_igzip, against_limit):
                row.ours.append(seconds)
            verified.theirs.append(seconds)
            stored.ours.append(made["object_size"] / MEGABYTE)
            against_limit.theirs.append(limits.compressing(plain.stream, 1))
            cpu.theirs.append(against_limit.theirs[-1] * (os.cpu_count() or 1))
            decompressing = limits.decompressing(*service.objects([made["id"]]))
            writing = limits.writing(service.state_dir / "zeros", plain.stream.stat().st_size)
            restore_limit.theirs.append(max(decompressing, writing))
            seconds, again = timed(partial(service.create, volume_gb, restorePoint={"backupRef": made["id"]}))
            restored.ours.append(seconds)
            restore_limit.ours.append(seconds)
            service.delete(f"/instances/{again['id']}")
            service.delete(f"/backups/{made['id']}")
        with service.paused():
            back_up_and_copy(verifying, instances[verifying], verified, copied)
    yield from (against_gzip, against_igzip, stored, against_limit, verified, copied, cpu, restored, restore_limit)
    plain.stream.unlink()
    alone = (
        writers(service, instance, plain, rounds),
        memory(service, instance, volume_gb),
        api_meanwhile(service, instance, rounds),
    )
    yield from beside(verifying, itertools.chain(*alone))


def back_up_and_copy(service: Service, instance: dict[str, Any], verified: Row, copied: Row) -> None:
    """One round of a backup that is verified, and of its copy to the other region, beside ``cp``."""
    seconds, made = timed(partial(service.back_up, instance))
    verified.ours.append(seconds)
    (data_object,) = service.objects([made["id"]])
    copied.theirs.append(limits.copying(data_object, service.state_dir / "copied"))
    seconds, copy = timed(partial(service.copy, made))
    copied.ours.append(seconds)
    service.forget_copy(copy)
    service.delete(f"/backups/{made['id']}")


def writers(service: Service, instance: dict[str, Any], plain: PlainTools, rounds: int) -> Iterator[Row]:
    """What InnoDB's writers feel of a backup, beside the tool alone with the same options."""
    slowest = Row("slowest write during a backup, ms", "the tool alone", "≤ 1.2; ≤ 30 ms")
    written = Row("writes a second during a backup", "the tool alone", "≥ 0.9", best=max)
    for _ in range(rounds):
        with Writer(instance) as writer:
            plain.take_to_nowhere()
        slowest.theirs.append(1000 * writer.slowest_s)
        written.theirs.append(writer.per_s)
        with Writer(instance) as writer:
            made = service.back_up(instance)
        slowest.ours.append(1000 * writer.slowest_s)
        written.ours.append(writer.per_s)
        service.delete(f"/backups/{made['id']}")
    yield slowest
    yield written


def api_meanwhile(service: Service, instance: dict[str, Any], rounds: int) -> Iterator[Row]:
    """Requests a second while backups are taken, one behind the other, beside those in quiet."""
    shows = Row("shows a second during backups", "in quiet", "≥ 0.7", best=max)
    lists = Row("lists of 20 a second during backups", "in quiet", "≥ 0.7", best=max)
    small = service.create(1)
    kept = [service.back_up(small)["id"] for _ in range(20)]
    asked = (
        (shows, [f"/v1.0/{ACCOUNT}/backups/{backup_id}" for backup_id in kept]),
        (lists, [f"/v1.0/{ACCOUNT}/backups"]),
    )
    for _ in range(rounds):
        for row, paths in asked:
            row.theirs.append(requests_per_s(service.port, paths, service.token))
        with service.backing_up(instance):
            for row, paths in asked:
                row.ours.append(requests_per_s(service.port, paths, service.token))
    for backup_id in kept:
        service.delete(f"/backups/{backup_id}")
    service.delete(f"/instances/{small['id']}")
    yield shows
    yield lists


def memory(service: Service, instance: dict[str, Any], volume_gb: int) -> Iterator[Row]:
    """Peak memory of a backup and of a restore, in MB."""
    with Memory(service.state_dir) as backing_up:
        made = service.back_up(instance)
    with Memory(service.state_dir) as restoring:
        restored = service.create(volume_gb, restorePoint={"backupRef": made["id"]})
    for name, seen in (("backup", backing_up), ("restore", restoring)):
        agent = Row(f"agent's memory during a {name}, MB", "-", "≤ 300 MB")
        every = Row(f"all processes' memory during a {name}, MB", "-", "≤ 600 MB")
        agent.ours.append(seen.agent_bytes / MEGABYTE)
        every.ours.append(seen.all_bytes / MEGABYTE)
        yield agent
        yield every
    service.delete(f"/instances/{restored['id']}")
    service.delete(f"/backups/{made['id']}")


def chain(service: Service, gigabytes: float, rounds: int) -> Iterator[Row]:
    """Increments beside the full backup below them, and a chain's restore beside the full's alone and one in turn."""
    volume_gb = max(1, int(gigabytes * 3) + 1)
    instance = service.create(volume_gb, **data.definition())
    data.fill(instance, gigabytes)
    plain = PlainTools(find_installation(None), service.state_dir, instance["id"])
    taken = Row("increment at 1 %, s", "the full below it", "≤ 0.5")
    stored = Row("increment at 1 %, stored MB", "the full below it", "≤ 0.15")
    deep = Row(f"restore of depth {DEPTH}, s", "the full alone", "≤ 1.4")
    in_turn = Row(f"restore of depth {DEPTH}, s", "increments in turn", "≥ 2.5 times faster", ratio=times_faster)
    seconds, made = timed(partial(service.back_up, instance))
    taken.theirs.append(seconds)
    stored.theirs.append(made["object_size"] / MEGABYTE)
    ids = [made["id"]]
    for number in range(DEPTH):
        data.change(instance, number)
        seconds, made = timed(partial(service.back_up, instance, ids[-1]))
        taken.ours.append(seconds)
        stored.ours.append(made["object_size"] / MEGABYTE)
        ids.append(made["id"])
    for _ in range(rounds):
        for figures, backup_id in ((deep.theirs, ids[0]), (deep.ours, ids[-1])):
            seconds, restored = timed(partial(service.create, volume_gb, restorePoint={"backupRef": backup_id}))
            figures.append(seconds)
            service.delete(f"/instances/{restored['id']}")
        in_turn.theirs.append(plain.restore_in_turn(service.objects(ids)))
    in_turn.ours.extend(deep.ours)
    service.delete(f"/backups/{ids[0]}")
    service.delete(f"/instances/{instance['id']}")
    yield from (taken, stored, deep, in_turn)


def timed(action: Callable[[], Result]) -> tuple[float, Result]:
    """Return the seconds that an action took, and its result."""
    began = time.monotonic()
    result = action()
    return time.monotonic() - began, result


def results(rows: Sequence[Row], rounds: int, gigabytes: float) -> str:
    """The page of results."""
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {memory_gb:.0f} GiB"
    version = find_installation(None).version
    return "\n".join([
        "# Measured beside the plain tools and the machine's limit",
        "",
        f"{machine}, Python {platform.python_version()}, MariaDB {version}, {gigabytes:g} GB of data unless said. The",
        f"best of {rounds} rounds in turn (and the worst). snaphold: POST to COMPLETED or ACTIVE, synced to the disk,",
        "the server answering.",
        "",
        "| what | snaphold | beside | that | ratio | target |",
        "| --- | --- | --- | --- | --- | --- |",
        *(row.text() for row in rows),
        "",
    ])  # fmt: skip


if __name__ == "__main__":
    main()
