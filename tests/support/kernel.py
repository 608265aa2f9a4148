"""Runs Python under a kernel that refuses a system call, by a filter of seccomp(2)."""

import subprocess
import sys
from pathlib import Path

_FILTER = """
import ctypes, os, platform, struct, sys
number = {"x86_64": 72, "aarch64": 25}[platform.machine()]  # fcntl(2)
rules = [  # of struct seccomp_data: the call's number, and the second and third argument
    (0x20, 0, 0, 0), (0x15, 0, 5, number),  # another call is allowed
    (0x20, 0, 0, 24), (0x15, 0, 3, 4),  # F_SETFL
    (0x20, 0, 0, 32), (0x45, 0, 1, os.O_DIRECT),
    (0x06, 0, 0, 0x00050000 | int(sys.argv[1])),  # SECCOMP_RET_ERRNO
    (0x06, 0, 0, 0x7FFF0000),  # SECCOMP_RET_ALLOW
]
program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *rule) for rule in rules))
head = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(rules), ctypes.addressof(program)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
assert libc.prctl(22, 2, head, 0, 0) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
del sys.argv[1]
"""


def under_a_kernel_without_direct_io(number: int, script: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a script where setting O_DIRECT fails with this error; the script's first argument is the directory."""
    return subprocess.run(
        [sys.executable, "-c", _FILTER + script, str(number), str(directory)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
