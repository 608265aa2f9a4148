"""Facts about the machine: its memory, and the addresses that are in use."""

import contextlib
import ipaddress
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_LISTEN: Final = "0A"  # a socket's state in /proc/net/tcp
_CGROUPS: Final = Path("/sys/fs/cgroup")


def memory_mb() -> int:
    """The memory in MiB that this process and its servers may use: the machine's, or the control group's limit."""
    found = re.search(r"^MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text("ascii"), re.MULTILINE)
    machine = int(found[1]) // 1024 if found else 0
    return min([machine, *(limit >> 20 for limit in _cgroup_limits())])


def listening_addresses(port: int) -> set[str]:
    """The addresses of this machine on which any process listens on this port."""
    found: set[str] = set()
    for file in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(file).read_text("ascii").splitlines()[1:]:
                _, local, _, state, *_ = line.split()
                address, _, number = local.partition(":")
                if state == _LISTEN and int(number, 16) == port:
                    found.add(_address(address))
    return found


def _cgroup_limits() -> Iterator[int]:
    """The memory limits, in bytes, of this process's control group and of its ancestors."""
    with contextlib.suppress(OSError, ValueError):
        (path,) = (line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
        group = _CGROUPS / path.lstrip("/")
        for each in (group, *group.parents):
            with contextlib.suppress(OSError, ValueError):
                yield int((each / "memory.max").read_text("ascii"))


def _address(hexadecimal: str) -> str:
    """Decode an address as the kernel prints it: words of four bytes, each in the machine's (little-endian) order."""
    words = [bytes.fromhex(hexadecimal[at : at + 8])[::-1] for at in range(0, len(hexadecimal), 8)]
    packed = b"".join(words)
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    return str(ipaddress.ip_address(socket.inet_ntop(family, packed)))
