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
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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
        _bind(extra, path)
        if owner is not None:
            os.chown(path, owner.uid, owner.gid, follow_symlinks=False)
        extra.listen(_BACKLOG)
        yield [clients, extra]


def _bind(extra: socket.socket, path: Path) -> None:
    """Bind by a short name, whatever the length of the path, in the place of what a server left there."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        path.unlink(missing_ok=True)
        extra.bind(f"/proc/self/fd/{directory}/{path.name}")
    finally:
        os.close(directory)
