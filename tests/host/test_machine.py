import socket
from pathlib import Path

import pytest

from snaphold.host.machine import listening_addresses, memory_mb


def test_memory() -> None:
    """No more than the machine has, and some."""
    total_kb = int(Path("/proc/meminfo").read_text().split()[1])
    assert 0 < memory_mb() <= total_kb // 1024


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.99.98.97"), (socket.AF_INET6, "::1")])
def test_listening_addresses(family: socket.AddressFamily, address: str) -> None:
    """Whoever listens is found, by address and port, until it stops."""
    with socket.socket(family) as listener:
        listener.bind((address, 0))
        port = listener.getsockname()[1]
        assert address not in listening_addresses(port)
        listener.listen(1)
        assert address in listening_addresses(port)
    assert address not in listening_addresses(port)
