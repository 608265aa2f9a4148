"""Opens the sockets that a server listens on, before the server starts and inherits them.

Clients connect by TCP and share ``max_connections``. The Unix socket is for the host and its backup tool: only the host
and the server's user can reach it, and its connections are counted separately, so that clients that use up all
connections lock out neither of them. MariaDB calls this the extra port. MariaDB itself can open it for TCP only, but an
inherited socket may be of any kind (systemd's socket activation: the sockets are the descriptors from 3 on, and
LISTEN_FDNAMES tells which one is ``extra``).

Source: sd_listen_fds(3); ``use_systemd_activated_sockets`` of MariaDB 10.6 and later, where it has libsystemd.
"""

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from snaphold.disk import Owner
from snaphold.errors import Permanent

_BACKLOG: Final = 512


class AddressTaken(Permanent):
    """Another process listens on the address of the instance."""


@contextmanager
def listening(address: str, port: int, path: Path, owner: Owner | None) -> Iterator[list[socket.socket]]:
    """Open the sockets for clients and for the host, in this order. A process that has inherited them keeps them.

    Raises:
        AddressTaken: another process listens there.
        Permanent: no process can listen there.
        OSError: the socket file cannot be created.
    """
    with ExitStack() as opened:
        clients = opened.enter_context(socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET))
        clients.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            clients.bind((address, port))
            clients.listen(_BACKLOG)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise AddressTaken(f"another process listens on {address} port {port}") from error
            told = f"{address} port {port}: {error.strerror}"
            raise Permanent("no server can listen on the address of the instance", detail=told) from error
        extra = opened.enter_context(socket.socket(socket.AF_UNIX))
        _bind(extra, path, owner)
        extra.listen(_BACKLOG)
        yield [clients, extra]


def _bind(extra: socket.socket, path: Path, owner: Owner | None) -> None:
    """Bind to a path of any length, which replaces what an earlier server left there, and give the socket its owner.

    The server's user can write to the directory. So the owner is given to the file that was opened and examined, not to
    a name that may mean another file by then.
    """
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        with suppress(FileNotFoundError):
            os.unlink(path.name, dir_fd=directory)
        extra.bind(f"/proc/self/fd/{directory}/{path.name}")
        if owner is not None:
            bound = os.open(path.name, os.O_PATH | os.O_NOFOLLOW, dir_fd=directory)
            try:
                facts = os.fstat(bound)
                if not stat.S_ISSOCK(facts.st_mode) or facts.st_nlink != 1:
                    raise Permanent("the socket of the instance was replaced", detail=str(path))
                os.chown(f"/proc/self/fd/{bound}", owner.uid, owner.gid)
            finally:
                os.close(bound)
    finally:
        os.close(directory)
