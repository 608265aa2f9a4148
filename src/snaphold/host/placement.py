"""Chooses the system user and the address of an instance."""

import contextlib
import grp
import ipaddress
import itertools
import pwd
import socket
from collections.abc import Collection, Iterator, Sequence
from typing import Final

from snaphold.errors import Permanent
from snaphold.host.processes import system_users_in_use
from snaphold.model import addresses_in, first_choice, from_there

SYSTEM_USERS: Final = 100_000  # user ids that are reserved for instances


def free_system_user(instance_id: str, first: int, taken: Collection[int]) -> int:
    """A user id that is not in use: it has no name, no process runs with it, and no instance has it.

    Raises:
        Permanent: all of them are taken.
    """
    running = system_users_in_use()
    for step in from_there(first_choice(instance_id, SYSTEM_USERS), SYSTEM_USERS):
        uid = first + step
        if uid not in taken and uid not in running and not _named(uid):
            return uid
    raise Permanent("every system user id that is set aside for instances is taken")


def free_addresses(
    instance_id: str, networks: Sequence[str], port: int, taken: Collection[str], *, first: str | None = None
) -> Iterator[str]:
    """The addresses on which a server could listen now, found by listening. Their order depends on the instance's id.

    ``first``: the address that the control plane has chosen; it counts only if it is in these networks.
    """
    chosen = [first] if first is not None and _is_in(first, networks) else []
    for address in itertools.chain(chosen, addresses_in(networks, instance_id)):
        if address not in taken and _can_listen(address, port):
            yield address


def _is_in(address: str, networks: Sequence[str]) -> bool:
    return any(ipaddress.ip_address(address) in ipaddress.ip_network(network) for network in networks)


def _named(uid: int) -> bool:
    with contextlib.suppress(KeyError):
        pwd.getpwuid(uid)
        return True
    with contextlib.suppress(KeyError):
        grp.getgrgid(uid)
        return True
    return False


def _can_listen(address: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
        try:
            listener.bind((address, port))
            listener.listen(1)
        except OSError:
            return False
        return True
