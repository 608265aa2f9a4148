"""Backups as a test takes them without our own stream: MariaDB's mbstream is the judge of what came out."""

import subprocess
import threading
from pathlib import Path

from snaphold.engines.base import BackupMetadata, Engine, ServerAccess
from snaphold.engines.mariadb.installation import Installation
from snaphold.formats.xbstream import Watch
from snaphold.host.servers import Servers
from snaphold.protocol import InstanceResult, InstanceSpec
from tests.support.servers import installation_of

BUFFER = 1 << 20  # bytes


def take_to_file(
    engine: Engine,
    server: ServerAccess,
    target: Path,
    *,
    parent_lsn: int | None = None,
    lock_wait_timeout_s: float = 60,
    started: threading.Event | None = None,
) -> BackupMetadata:
    """Take a backup into a file, and return the engine's metadata, as the agent does."""
    buffer, watch = memoryview(bytearray(BUFFER)), Watch(engine.captures)
    with (
        target.open("wb") as file,
        engine.take(server, parent_lsn=parent_lsn, lock_wait_timeout_s=lock_wait_timeout_s) as stream,
    ):
        if started is not None:
            started.set()
        while count := stream.readinto(buffer):
            file.write(buffer[:count])
            watch.feed(buffer[:count])
        watch.finish()
        return stream.taken(watch.captured)


def extract(installation: Installation, stream: Path, directory: Path, *, uid: int | None, gid: int | None) -> None:
    """Unpack a stream with mbstream, as the given system user."""
    with stream.open("rb") as file:
        subprocess.run(
            [installation.mbstream, "-x", "-C", directory],
            stdin=file,
            user=uid,
            group=gid,
            extra_groups=None if uid is None else [],
            env=dict(installation.environment),
            check=True,
        )


def restore(engine: Engine, servers: Servers, stream: Path, spec: InstanceSpec, attempt: int = 1) -> InstanceResult:
    """The way back: staging, extract, prepare, finish."""
    staging = servers.staging(spec, attempt)
    extract(installation_of(servers), stream, staging.directory, uid=staging.uid, gid=staging.gid)
    engine.prepare(staging.directory, uid=staging.uid, gid=staging.gid, memory_bytes=staging.memory_bytes)
    return servers.finish_restore(spec, attempt)
