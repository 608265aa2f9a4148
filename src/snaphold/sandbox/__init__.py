"""Sandboxes: what a tool or a database server may reach, enforced by the kernel whatever becomes of the program.

A program is not started itself, but by ``launcher.py``, which abandons rights and then becomes it:

- it is a user of its own where there is one, has no capabilities and can gain none (no_new_privs);
- with Landlock (Linux 5.19 and later, with root and without) it reads the system's libraries and what is named here,
  writes only what is named here, runs nothing but itself, makes no links, signals nobody outside (6.12);
- with Linux 6.7 and later it connects to no TCP port but those that are named.

What the kernel does not offer is left out: ``protection`` says what there is.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from snaphold.sandbox import launcher

_LAUNCHER: Final = os.fspath(Path(launcher.__file__).resolve())
# What programs of MariaDB and their libraries read of a system. Nothing here holds a secret that a user of the system
# may read.
_SYSTEM: Final = (
    "/usr",
    "/lib",
    "/lib64",
    "/proc",
    "/sys",
    "/dev/urandom",
    "/dev/random",
    "/dev/zero",
    *(
        f"/etc/{name}"
        for name in (
            "ld.so.cache",
            "ld.so.preload",
            "localtime",
            "timezone",
            "nsswitch.conf",
            "passwd",
            "group",
            "hosts",
            "host.conf",
            "resolv.conf",
            "gai.conf",
            "services",
            "protocols",
            "ssl",
            "pki",
            "crypto-policies",
        )
    ),
)
_WRITABLE: Final = ("/dev/null",)


@dataclass(frozen=True, kw_only=True)
class Sandbox:
    """What a program may reach besides the system's libraries: files, or directories with all that is below them."""

    reads: Sequence[Path] = ()
    writes: Sequence[Path] = ()
    connects_to: Sequence[int] = ()  # TCP ports


@dataclass(frozen=True, kw_only=True)
class Protection:
    """What the kernel of this machine enforces of a sandbox."""

    files: bool
    connections: bool
    signals: bool


def protection() -> Protection:
    """What this machine's kernel offers."""
    abi = launcher.landlock_abi()
    return Protection(files=abi > 0, connections=abi >= launcher.CONNECTIONS_ABI, signals=abi >= launcher.SIGNALS_ABI)


def command(
    argv: Sequence[str | Path],
    *,
    sandbox: Sandbox | None,
    uid: int | None = None,
    gid: int | None = None,
    environment: Mapping[str, str] | None = None,
    dies_with_us: bool = False,
    open_files: int | None = None,
    listens: bool = False,
) -> list[str]:
    """The command line that starts a program restricted; ``argv[0]`` is its path.

    ``sandbox``: None restricts no files. ``uid``, ``gid``: whom it is to be. ``environment``: its whole one, None:
    that in which the command is run. ``dies_with_us``: it is killed when the calling thread ends. ``open_files``: its
    soft limit of them, as far as the hard one allows. ``listens``: standard input and output are two sockets,
    which the program gets as sd_listen_fds(3) says; its output goes where its errors go then.
    """
    paths = None
    if sandbox is not None:
        paths = {
            "reads": [*_SYSTEM, *map(os.fspath, sandbox.reads)],
            "writes": [*_WRITABLE, *map(os.fspath, sandbox.writes)],
            "ports": list(sandbox.connects_to),
        }
    restrictions = {
        "uid": uid,
        "gid": gid,
        "environment": None if environment is None else dict(environment),
        "parent": os.getpid() if dies_with_us else None,
        "open_files": open_files,
        "listens": listens,
        "paths": paths,
    }
    return [sys.executable, "-I", "-S", _LAUNCHER, json.dumps(restrictions), *(os.fspath(word) for word in argv)]


def launched(command_line: Sequence[bytes]) -> Sequence[bytes]:
    """The program's own command line, whether the launcher has become it yet or not."""
    if len(command_line) > 5 and command_line[3] == os.fsencode(_LAUNCHER):
        return command_line[5:]
    return command_line
