"""The demonstration: a database of real flights is backed up under load, damaged, and restored in two regions.

It starts the service in a temporary directory, does everything over the HTTP API as a client would, compares the
restored data with the original, and leaves nothing behind. The exit status is 0 only if every comparison succeeds.

The comparison is exact although rows are written all the time. A single writer books flights, one transaction after
the other. Transaction n inserts a row with the entry n into `flights`, `weather` and `bookings`; rows of the data set
have the entry 0. So the highest restored entry is the moment of the backup, and every table must have exactly the rows
that it had after that many transactions.
"""

import contextlib
import csv
import io
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import pymysql

PROJECT: Final = Path(__file__).resolve().parents[1]
DATA: Final = PROJECT / ".cache" / "nycflights13"
SNAPHOLD: Final = Path(sys.executable).parent / "snaphold"
ACCOUNT: Final = "1234"
USER: Final = "clerk"
PASSWORD: Final = "take-off-1903"  # noqa: S105 - of a database that lives for a minute
DATABASE: Final = "nyc"
REFERENCE: Final = "reference"  # a copy of the tables of DATABASE, kept for the comparison

# Column types; every table of the data set gets a primary key and the entry, see above.
TABLES: Final = {
    "airlines": "carrier VARCHAR(4), name VARCHAR(64)",
    "airports": "faa VARCHAR(4), name VARCHAR(64), lat DOUBLE, lon DOUBLE, alt INT, tz INT, dst CHAR(1), "
    "tzone VARCHAR(32)",
    "planes": "tailnum VARCHAR(8), year INT, type VARCHAR(32), manufacturer VARCHAR(32), model VARCHAR(32), "
    "engines INT, seats INT, speed INT, engine VARCHAR(16)",
    "weather": "origin CHAR(3), year INT, month INT, day INT, hour INT, temp DOUBLE, dewp DOUBLE, humid DOUBLE, "
    "wind_dir INT, wind_speed DOUBLE, wind_gust DOUBLE, precip DOUBLE, pressure DOUBLE, visib DOUBLE, "
    "time_hour VARCHAR(20)",
    "flights": "year INT, month INT, day INT, dep_time INT, sched_dep_time INT, dep_delay INT, arr_time INT, "
    "sched_arr_time INT, arr_delay INT, carrier VARCHAR(4), flight INT, tailnum VARCHAR(8), origin CHAR(3), "
    "dest CHAR(3), air_time INT, distance INT, hour INT, minute INT, time_hour VARCHAR(20)",
    "bookings": "passenger VARCHAR(64)",
}
WRITTEN: Final = ("flights", "weather", "bookings")  # the tables that the writer writes to


def main() -> int:
    """Run the demonstration, and return the exit status."""
    begun = time.monotonic()
    say("starting the service")
    with service() as (api, far):
        instance = api.create_instance()
        rows = load(instance)
        with Writer(instance) as writer:
            acknowledged_before = writer.acknowledged
            backup = api.back_up(instance)
            acknowledged_after = writer.acknowledged
        keep_reference(instance)
        damage(instance)
        restored = api.restore(backup)
        moment = compare(instance, restored, acknowledged_before, acknowledged_after)
        copy = api.copy(backup, far)
        say("deleting the backup in DFW, so that only its copy in IAD is left")
        api.call("DELETE", f"/backups/{backup['id']}")
        again = far.restore(copy)
        compare(instance, again, acknowledged_before, acknowledged_after)
    say("all compared tables are equal")
    figures = {
        "rows of the data set": f"{rows:,}",
        "bookings while the backup ran": f"{acknowledged_after - acknowledged_before:,}",
        "last booking in the backup": f"{moment:,}",
        "data in the database": f"{backup['size']} GB",
        "backup, from request to COMPLETED": f"{api.seconds['backup']:.2f} s",
        "restore, from request to ACTIVE": f"{api.seconds['restore']:.2f} s",
        "copy to IAD, to COMPLETED": f"{api.seconds['copy']:.2f} s",
        "restore in IAD, to ACTIVE": f"{far.seconds['restore']:.2f} s",
        "total time": f"{time.monotonic() - begun:.1f} s",
    }
    for name, figure in figures.items():
        print(f"  {name:<34} {figure:>14}")
    return 0


class Failed(Exception):
    """The demonstration failed; the message says why."""


def say(what: str) -> None:
    """Print what is done next."""
    print(f"* {what}", flush=True)


@dataclass
class Api:
    """A client of the HTTP API of one region, which prints its requests."""

    region: str
    base: str
    token: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Send a request for the account, and return the decoded answer."""
        return self.raw(method, f"/v1.0/{ACCOUNT}{path}", body)

    def raw(self, method: str, path: str, body: object = None, *, quiet: bool = False) -> Any:
        """Send a request. Raises ``Failed`` when it is refused."""
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        if self.token is not None:
            headers["X-Auth-Token"] = self.token
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, headers, method=method)  # noqa: S310 - our own service
        try:
            with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
                status, text = response.status, response.read()
        except urllib.error.HTTPError as error:
            raise Failed(f"{method} {path} was answered {error.code}: {error.read()[:300].decode()}") from error
        if not quiet:
            print(f"    {method} {path} -> {status}  {text[:90].decode(errors='replace')}", flush=True)
        return json.loads(text) if text else None

    def log_in(self, user: str, password: str) -> None:
        """Get a token."""
        auth = {"passwordCredentials": {"username": user, "password": password}, "tenantName": ACCOUNT}
        print(f"    POST /v2.0/tokens as {user}", flush=True)
        self.token = self.raw("POST", "/v2.0/tokens", {"auth": auth}, quiet=True)["access"]["token"]["id"]

    def create_instance(self) -> Any:
        """Create an empty instance with a database user."""
        say("creating an instance")
        databases = [{"name": DATABASE}, {"name": REFERENCE}]
        user = {"name": USER, "password": PASSWORD, "databases": databases}
        wanted = {
            "name": "airport", "flavorRef": 1, "volume": {"size": 2}, "databases": databases, "users": [user]
        }  # fmt: skip
        made = self.call("POST", "/instances", {"instance": wanted})["instance"]
        return self.wait(f"/instances/{made['id']}", "instance", "ACTIVE")

    def back_up(self, instance: Any) -> Any:
        """Take a full backup, and wait until it is complete."""
        say("taking a full backup while flights are being booked")
        begun = time.monotonic()
        wanted = {"name": "flights-2013", "description": "while bookings go on", "instance": instance["id"]}
        made = self.call("POST", "/backups", {"backup": wanted})["backup"]
        backup = self.wait(f"/backups/{made['id']}", "backup", "COMPLETED")
        self.seconds["backup"] = time.monotonic() - begun
        return backup

    def copy(self, backup: Any, far: "Api") -> Any:
        """Copy the backup to another region, and return the copy when it is complete."""
        say(f"copying the backup to the region {far.region}, which has its own catalog and store")
        begun = time.monotonic()
        path = f"/backups/{backup['id']}"
        wanted = {"target_backup_region": far.region, "name": "flights-2013-afar"}
        self.call("POST", f"{path}/action", {"copy-backup": wanted})
        while True:
            (copy,) = self.raw("GET", f"/v1.0/{ACCOUNT}{path}", quiet=True)["backup"]["copies"]
            if copy["status"] == "COMPLETED":
                break
            if copy["status"] == "FAILED" or time.monotonic() > begun + 120:
                raise Failed(f"the copy should become COMPLETED: {json.dumps(copy)}")
            time.sleep(0.1)
        self.seconds["copy"] = time.monotonic() - begun
        return far.call("GET", f"/backups/{copy['id']}")["backup"]

    def restore(self, backup: Any) -> Any:
        """Restore the backup to a new instance."""
        say(f"restoring {backup['name']} as a new instance in {self.region}")
        begun = time.monotonic()
        wanted = {
            "name": "airport-again", "flavorRef": 1, "volume": {"size": 2}, "restorePoint": {"backupRef": backup["id"]}
        }  # fmt: skip
        made = self.call("POST", "/instances", {"instance": wanted})["instance"]
        restored = self.wait(f"/instances/{made['id']}", "instance", "ACTIVE")
        self.seconds["restore"] = time.monotonic() - begun
        return restored

    def wait(self, path: str, root: str, wanted: str) -> Any:
        """Wait until a resource has the wanted status, and print its progress."""
        deadline = time.monotonic() + 120
        shown: str | None = None
        while True:
            thing = self.raw("GET", f"/v1.0/{ACCOUNT}{path}", quiet=True)[root]
            line = f"{thing['status']} {_progress(thing)}".rstrip()
            if line != shown:
                print(f"    GET {path} -> {line}", flush=True)
                shown = line
            if thing["status"] == wanted:
                return thing
            if thing["status"] in {"ERROR", "FAILED"} or time.monotonic() > deadline:
                raise Failed(f"{path} should become {wanted}: {json.dumps(thing)}")
            time.sleep(0.1)


def _progress(thing: Any) -> str:
    progress = thing.get("progress")
    if not progress:
        return ""
    if not progress["expected_bytes"]:
        return ""
    rate, left_s = progress["bytes_per_s"], progress["seconds_left"]
    rate = "" if rate is None or left_s is None else f", {rate >> 20} MiB/s, {left_s} s left"
    return f"{progress['step']}, {progress['done_bytes'] >> 20} of some {progress['expected_bytes'] >> 20} MiB{rate}"


@contextlib.contextmanager
def service() -> Iterator[tuple[Api, Api]]:
    """The two regions of the running service, one account logged in to both.

    Everything is gone afterwards, the database servers too.
    """
    state = Path(tempfile.mkdtemp(prefix="snaphold-demo-"))
    state.chmod(0o755)
    with socket.socket() as one, socket.socket() as other:
        for probe in (one, other):
            probe.bind(("127.0.0.1", 0))
        ports = {"DFW": one.getsockname()[1], "IAD": other.getsockname()[1]}
    log = state / "serve.log"
    try:
        with log.open("wb") as output:
            words = [str(SNAPHOLD), "serve", "--state-dir", str(state)]
            for region, port in ports.items():
                words += ["--region", f"{region}=127.0.0.1:{port}"]
            server = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            api, far = (Api(region, f"http://127.0.0.1:{port}") for region, port in ports.items())
            for each in (api, far):
                _wait_until_it_answers(each.base, server, log)
            add = [str(SNAPHOLD), "account", "add", "--state-dir", str(state), ACCOUNT, "--user", "demo"]
            subprocess.run(add, input=b"let-me-in\n", stdout=subprocess.DEVNULL, check=True)
            api.log_in("demo", "let-me-in")
            far.token = api.token  # it is good in every region
            yield api, far
        except BaseException:
            sys.stderr.write(f"the service's log ends:\n{''.join(log.read_text().splitlines(keepends=True)[-20:])}")
            raise
        finally:
            stop = [str(SNAPHOLD), "stop", "--state-dir", str(state)]
            if subprocess.run(stop, stdout=subprocess.DEVNULL, check=False).returncode != 0:
                say("the service did not stop, and is killed")
                server.kill()
            server.wait()
    finally:
        shutil.rmtree(state)


def _wait_until_it_answers(base: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while True:
        with contextlib.suppress(OSError), urllib.request.urlopen(base, timeout=2):  # noqa: S310 - our own service
            return
        if server.poll() is not None or time.monotonic() > deadline:
            raise Failed(f"the service did not start: {log.read_text()}")
        time.sleep(0.05)


@contextlib.contextmanager
def connected(instance: Any) -> Iterator[pymysql.cursors.Cursor]:
    """A connection to an instance as the database user, with the password that it was made with."""
    connection = pymysql.connect(
        host=instance["ip"][0],
        port=instance.get("port", 3306),
        user=USER,
        password=PASSWORD,
        database=DATABASE,
        autocommit=True,
        charset="utf8mb4",
    )
    with connection, connection.cursor() as cursor:
        yield cursor


def load(instance: Any) -> int:
    """Load the data set into the instance, and return the number of rows."""
    say("loading the flights, weather, planes, airports and airlines of New York City in 2013")
    count = 0
    with connected(instance) as cursor:
        for table, columns in TABLES.items():
            cursor.execute(
                f"CREATE TABLE {table} (id INT PRIMARY KEY AUTO_INCREMENT, {columns}, "
                f"entry INT NOT NULL DEFAULT 0, KEY (entry)) ENGINE=InnoDB"
            )
            if table != "bookings":
                rows = insert(cursor, table, read(table))
                count += rows
                print(f"    {table}: {rows:,} rows", flush=True)
    return count


def read(table: str) -> Iterator[list[str | None]]:
    """The rows of one file of the data set, without its heading; NA is None."""
    with contextlib.ExitStack() as stack:
        if (DATA / f"{table}.csv").exists():
            file: io.TextIOBase = stack.enter_context((DATA / f"{table}.csv").open(encoding="utf-8", newline=""))
        else:
            archive = stack.enter_context(zipfile.ZipFile(DATA / f"{table}.csv.zip"))
            file = io.TextIOWrapper(stack.enter_context(archive.open(f"{table}.csv")), "utf-8", newline="")
        lines = csv.reader(file)
        next(lines)
        for line in lines:
            yield [None if value == "NA" else value for value in line]


def insert(cursor: pymysql.cursors.Cursor, table: str, rows: Iterable[Sequence[str | None]]) -> int:
    """Insert rows in batches, and return their number."""
    names = [part.split()[0] for part in TABLES[table].split(", ")]
    statement = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join(['%s'] * len(names))})"
    count = 0
    rows = iter(rows)
    while batch := list(itertools.islice(rows, 20_000)):
        cursor.executemany(statement, batch)
        count += len(batch)
    return count


class Writer:
    """Books flights, one transaction after the other, as long as the context lasts.

    ``acknowledged``: how many transactions the database has committed and said so.
    """

    def __init__(self, instance: Any) -> None:
        self.acknowledged = 0
        self._instance = instance
        self._stop = threading.Event()
        self._running = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._write, name="writer")

    def __enter__(self) -> Self:
        self._thread.start()
        self._running.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._error is not None:
            raise Failed(f"the writer could not go on: {self._error}") from self._error

    def _write(self) -> None:
        try:
            with connected(self._instance) as cursor:
                for entry in itertools.count(1):
                    if self._stop.is_set():
                        return
                    cursor.execute("BEGIN")
                    cursor.execute(
                        "INSERT INTO flights (year, month, day, carrier, flight, origin, dest, entry) "
                        "VALUES (2014, 1, %s, 'UA', %s, 'JFK', 'LAX', %s)",
                        (entry % 31 + 1, entry, entry),
                    )
                    cursor.execute(
                        "INSERT INTO weather (origin, year, month, day, hour, temp, entry) "
                        "VALUES ('JFK', 2014, 1, %s, %s, %s, %s)",
                        (entry % 31 + 1, entry % 24, entry / 7, entry),
                    )
                    cursor.execute(
                        "INSERT INTO bookings (passenger, entry) VALUES (%s, %s)", (f"passenger {entry}", entry)
                    )
                    cursor.execute("COMMIT")
                    self.acknowledged = entry
                    self._running.set()
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits for this one
            self._error = error
            self._running.set()


def keep_reference(instance: Any) -> None:
    """Copy every table into the database REFERENCE of the source."""
    with connected(instance) as cursor:
        for table in TABLES:
            cursor.execute(f"CREATE TABLE {REFERENCE}.{table} LIKE {table}")
            cursor.execute(f"INSERT INTO {REFERENCE}.{table} SELECT * FROM {table}")


def damage(instance: Any) -> None:
    """Delete, change and drop data, as an accident would."""
    say("deleting and changing rows, dropping a table")
    with connected(instance) as cursor:
        for statement in (
            "DELETE FROM flights WHERE carrier = 'UA'",
            "UPDATE weather SET temp = 451",
            "DELETE FROM bookings",
            "DROP TABLE planes",
        ):
            print(f"    {statement}: {cursor.execute(statement):,} rows", flush=True)


def compare(instance: Any, restored: Any, acknowledged_before: int, acknowledged_after: int) -> int:
    """Compare every table with its state at the moment of the backup; return the moment as a number of bookings.

    Raises:
        Failed: a table differs, or the moment is outside of the time of the backup.
    """
    say(f"logging in to {restored['ip'][0]} with the old password, comparing every table")
    with connected(restored) as cursor:
        moments = {table: _one(cursor, f"SELECT MAX(entry) FROM {table}") for table in WRITTEN}
        found = {table: _one(cursor, f"CHECKSUM TABLE {table}", column=1) for table in TABLES}
    moment = moments["bookings"]
    if set(moments.values()) != {moment}:
        raise Failed(f"a transaction was restored in part: {moments}")
    if not acknowledged_before <= moment <= acknowledged_after + 1:
        raise Failed(f"booking {moment} is not in {acknowledged_before} to {acknowledged_after + 1}")
    with connected(instance) as cursor:
        for table in WRITTEN:
            cursor.execute(f"DELETE FROM {REFERENCE}.{table} WHERE entry > {moment}")
        expected = {table: _one(cursor, f"CHECKSUM TABLE {REFERENCE}.{table}", column=1) for table in TABLES}
    for table in TABLES:
        print(f"    CHECKSUM TABLE {table:<9} {expected[table]:>12} {found[table]:>12}", flush=True)
    different = [table for table in TABLES if expected[table] != found[table]]
    if different:
        raise Failed(f"these tables differ: {', '.join(different)}")
    return moment


def _one(cursor: pymysql.cursors.Cursor, statement: str, column: int = 0) -> int:
    cursor.execute(statement)
    row = cursor.fetchone()
    if row is None or row[column] is None:
        raise Failed(f"{statement} gives nothing")
    return int(row[column])


if __name__ == "__main__":
    if not DATA.is_dir():
        sys.exit("the data set is missing: run `make demo`")
    os.chdir(PROJECT)
    try:
        sys.exit(main())
    except Failed as failure:
        sys.exit(f"FAILED: {failure}")
