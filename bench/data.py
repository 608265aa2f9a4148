"""The data of a measurement: made by the server itself, the same for the same seed, text of about 2.5:1."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pymysql
from pymysql.cursors import Cursor

USER: Final = "bench"
PASSWORD: Final = "bench"  # noqa: S105 - of a database that lives for one measurement
DATABASE: Final = "bench"
WORDS: Final = "the quick brown fox jumps over a lazy dog while it rains "
BATCH: Final = 100_000  # rows of one statement
ROW_BYTES: Final = 400  # what one row takes on the disk, about


def fill(instance: dict[str, Any], gigabytes: float, *, seed: int = 7) -> float:
    """Fill tables until they hold about so many GB: nine parts InnoDB, one MyISAM and Aria. Returns the seconds."""
    began = time.monotonic()
    rows = int(gigabytes * (1 << 30) / ROW_BYTES)
    shares = {"events": ("InnoDB", 0.9), "archive": ("MyISAM", 0.05), "notes": ("Aria", 0.05)}
    with connected(instance) as cursor:
        for table, (engine, share) in shares.items():
            cursor.execute(
                f"CREATE TABLE {table} (id INT PRIMARY KEY, at INT UNSIGNED, body VARCHAR(400)) ENGINE={engine}"
            )
            for first in range(1, int(rows * share) + 1, BATCH):
                last = min(first + BATCH - 1, int(rows * share))
                cursor.execute(
                    f"INSERT INTO {table} SELECT seq, CRC32(seq * {seed}), "
                    f"CONCAT(MD5(seq * {seed}), '{WORDS}', MD5(seq + {seed}), SHA1(seq), SHA1(seq * 5), "
                    f"SHA1(seq * 3), MD5(seq * 11), MD5(seq * 13)) FROM seq_{first}_to_{last}"
                )
    return time.monotonic() - began


def change(instance: dict[str, Any], number: int) -> None:
    """Change about one page in a hundred: rows in a row, others each time."""
    with connected(instance) as cursor:
        cursor.execute(f"UPDATE events SET at = at + 1 WHERE id DIV 40 % 100 = {number}")


@contextmanager
def connected(instance: dict[str, Any]) -> Iterator[Cursor]:
    """A cursor on the instance's data; each statement is a transaction."""
    with (
        pymysql.connect(
            host=instance["ip"][0],
            port=int(instance.get("port", 3306)),
            user=USER,
            password=PASSWORD,
            database=DATABASE,
            autocommit=True,
        ) as connection,
        connection.cursor() as cursor,
    ):
        yield cursor


def definition() -> dict[str, Any]:
    """What the instance's request must name."""
    databases = [{"name": DATABASE}]
    return {"databases": databases, "users": [{"name": USER, "password": PASSWORD, "databases": databases}]}
