"""Measures the requests per second that one API process answers over persistent connections."""

import json
import multiprocessing
import socket
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

CONNECTIONS: Final = 4
SECONDS: Final = 5.0
BATCH: Final = 10_000  # rows of one insert


def requests_per_s(port: int, paths: Sequence[str], token: str, seconds: float = SECONDS) -> float:
    """Ask for these paths in turn, CONNECTIONS at a time, for so long. Raises where an answer is not a 200."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_ask, (port, list(paths), token, seconds))


def fill_catalog(catalog: Path, account: str, like: dict[str, Any], count: int) -> list[str]:
    """Put ``count`` rows of completed backups into a catalog, each like the one of this answer; their newest ids."""
    engine = sa.create_engine(f"sqlite:///{catalog}")
    with engine.begin() as connection:
        table = sa.Table("backups", sa.MetaData(), autoload_with=connection)
        row = dict(connection.execute(table.select().where(table.c.id == like["id"])).mappings().one())
        ids: list[str] = []
        for first in range(0, count, BATCH):
            ids = [str(uuid.uuid4()) for _ in range(min(BATCH, count - first))]
            rows = [
                row | {"id": name, "account": account, "created_us": row["created_us"] - first - number - 1}
                for number, name in enumerate(ids)
            ]
            connection.execute(table.insert(), rows)
    engine.dispose()
    return ids[-1000:]


def _ask(port: int, paths: list[str], token: str, seconds: float) -> float:
    """The asking process: every connection has a request under way, all the time."""
    asked = [
        f"GET {path} HTTP/1.1\r\nHost: bench\r\nX-Auth-Token: {token}\r\nAccept: application/json\r\n\r\n".encode()
        for path in paths
    ]
    connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(CONNECTIONS)]
    readers = [connection.makefile("rb") for connection in connections]
    answered = 0
    for connection in connections:
        connection.sendall(asked[0])
    begun = time.monotonic()
    while time.monotonic() - begun < seconds:
        for connection, reader in zip(connections, readers, strict=True):
            _read_answer(reader)
            answered += 1
            connection.sendall(asked[answered % len(asked)])
    took = time.monotonic() - begun
    for connection in connections:
        connection.close()
    return answered / took


def _read_answer(reader: Any) -> None:
    status = reader.readline()
    length = 0
    while (line := reader.readline()) not in {b"\r\n", b""}:
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    body = reader.read(length)
    if b" 200 " not in status:
        raise RuntimeError(f"{status!r} {json.dumps(body.decode(errors='replace'))}")
