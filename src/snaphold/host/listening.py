"""The sockets that a server listens on, opened before it is started and handed to it.

Clients come in by TCP and share ``max_connections``. The socket in the file system is the host's own: only the host and
the server's user can reach it, and its connections are counted apart, so that clients who take every connection shut
out neither the host nor its backup tool. MariaDB calls this the extra port. It can open one for TCP only, but a socket
that it is handed may be of any kind (systemd's socket activation: the sockets are the descriptors from 3 on, and
LISTEN_FDNAMES says which one is ``extra``).

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
    """Somebody else listens on the address that the instance was to get, or has."""


@contextmanager
def listening(address: str, port: int, path: Path, owner: Owner | None) -> Iterator[list[socket.socket]]:
    """The sockets for clients and for the host, as long as the context lasts; who was handed them keeps them.

    Raises:
        AddressTaken: somebody else listens there.
        Permanent: nobody can listen there.
        OSError: the socket's file cannot be made.
    """
    with ExitStack() as opened:
        clients = opened.enter_context(socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET))
        clients.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            clients.bind((address, port))
            clients.listen(_BACKLOG)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise AddressTaken(f"somebody else listens on {address} port {port}") from error
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
