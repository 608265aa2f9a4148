"""Sandboxes: what a tool or a database server may reach. The kernel enforces it, even if the program is taken over.

``launcher.py`` starts each program: it gives up rights and then executes the program, which

- runs as its own user, if it has one, without capabilities, and cannot gain any (no_new_privs);
- with Landlock (Linux 5.19 and later, as root or not) reads only the system's libraries and the paths named here,
  writes only the paths named here, executes only itself, creates no links, and signals no process outside (Linux 6.12);
- with Linux 6.7 and later connects only to the TCP ports named here.

A restriction that the kernel does not offer is left out; ``protection`` returns what it offers.
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
# The system files that MariaDB's programs and their libraries read. None holds a secret that every user can read.
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
    """The paths that a program may reach besides the system's libraries; a directory includes everything below it."""

    reads: Sequence[Path] = ()
    writes: Sequence[Path] = ()
    connects_to: Sequence[int] = ()  # TCP ports


@dataclass(frozen=True, kw_only=True)
class Protection:
    """Which parts of a sandbox this machine's kernel enforces."""

    files: bool
    connections: bool
    signals: bool


def protection() -> Protection:
    """The parts of a sandbox that this machine's kernel offers."""
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
    """The command line that starts a program with restrictions; ``argv[0]`` is the program's path.

    ``sandbox``: None restricts no files. ``uid``, ``gid``: the program's user. ``environment``: the whole environment;
    None: ours. ``dies_with_us``: the kernel kills it when the calling thread ends. ``open_files``: the soft limit,
    up to the hard one. ``listens``: standard input and output are two sockets; the program receives them as in
    sd_listen_fds(3), and its output goes to standard error.
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
    """The program's own command line, whether the launcher has executed it already or not."""
    if len(command_line) > 5 and command_line[3] == os.fsencode(_LAUNCHER):
        return command_line[5:]
    return command_line
