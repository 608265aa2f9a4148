"""A program that gives up rights and then executes another program.

    python -I -S launcher.py RESTRICTIONS PROGRAM [ARGUMENT…]

``RESTRICTIONS`` is JSON, written by ``sandbox.command``. The order matters. The user comes first, while we may still
change it. The signal at the parent's end comes after it, because a change of user clears it. Files and connections come
last, because they forbid everything else.

The launcher runs before every tool and every server, so it imports only a few modules of the standard library and takes
about 20 ms. If a restriction fails, it exits with status 126 and one line on standard error, without executing the
program.

Source: prctl(2), capabilities(7), landlock(7), elf(5).
"""

import ctypes
import json
import os
import resource
import signal
import stat
import struct
import sys

_PT_INTERP = 3  # elf(5)
FAILED = 126  # exit status, like a shell's for a program that cannot be executed

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_SYS_CAPSET = {"x86_64": 126, "aarch64": 91}
_CAPABILITY_VERSION_3 = 0x20080522
_CAPABILITIES = 64  # more than exist

_SYS_LANDLOCK_CREATE_RULESET, _SYS_LANDLOCK_ADD_RULE, _SYS_LANDLOCK_RESTRICT_SELF = 444, 445, 446
_LANDLOCK_VERSION = 1
_RULE_PATH, _RULE_PORT = 1, 2
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE = 1 << 4, 1 << 5
_MAKE_CHAR, _MAKE_DIR, _MAKE_REG, _MAKE_SOCK = 1 << 6, 1 << 7, 1 << 8, 1 << 9
_MAKE_FIFO, _MAKE_BLOCK, _MAKE_SYM = 1 << 10, 1 << 11, 1 << 12
_REFER, _TRUNCATE = 1 << 13, 1 << 14  # since ABI 2 and 3
_CONNECT_TCP = 1 << 1  # since ABI 4
_SCOPE_ABSTRACT_UNIX_SOCKET, _SCOPE_SIGNAL = 1 << 0, 1 << 1  # since ABI 6
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE  # the rights that a rule for a single file may have
_READ = _READ_FILE | _READ_DIR
_WRITE = (
    _READ | _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _MAKE_SOCK | _REFER | _TRUNCATE
)  # neither links nor devices
_ALL = _WRITE | _EXECUTE | _MAKE_CHAR | _MAKE_FIFO | _MAKE_BLOCK | _MAKE_SYM
LEAST_ABI = 2  # ABI 1 forbids every rename from one directory to another
CONNECTIONS_ABI = 4
SIGNALS_ABI = 6


def landlock_abi() -> int:
    """The version of Landlock that the kernel offers; 0: none, or one that is too old."""
    abi = _LIBC.syscall(_SYS_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), _LANDLOCK_VERSION)
    return abi if abi >= LEAST_ABI else 0


def become(uid: int, gid: int) -> None:
    """Become this user for good, with no supplementary groups."""
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def forbid_capabilities() -> None:
    """Keep every program that we execute from gaining capabilities, also set-user-ID ones. Call before ``become``."""
    for capability in range(_CAPABILITIES):
        if _LIBC.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0) and ctypes.get_errno() != 22:  # EINVAL
            break  # not root: nothing to drop


def drop_capabilities() -> None:
    """Drop our own capabilities."""
    _LIBC.prctl(_PR_CAP_AMBIENT, ctypes.c_ulong(_PR_CAP_AMBIENT_CLEAR_ALL), 0, 0, 0)
    number = _SYS_CAPSET.get(os.uname().machine)
    if number is not None:
        _check(_LIBC.syscall(number, struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), bytes(24)), "capset")


def forbid_new_privileges() -> None:
    """Keep set-user-ID programs and file capabilities from raising our rights."""
    _check(_LIBC.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), 0, 0, 0), "PR_SET_NO_NEW_PRIVS")


def die_with(parent: int) -> None:
    """Be killed when the thread that started us ends, at once if it has ended. Call after ``become``."""
    _check(_LIBC.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0), "PR_SET_PDEATHSIG")
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def restrict(
    *, reads: list[str], writes: list[str], executes: list[str] | None, ports: list[int] | None, abi: int
) -> None:
    """Restrict us to these files and directories, and to connections to these TCP ports; None: no restriction.

    Missing paths are ignored. Files that are open stay open. Call ``forbid_new_privileges`` before.
    """
    known = _ALL if abi >= 3 else _ALL & ~_TRUNCATE
    if executes is None:
        known &= ~_EXECUTE
    connections = _CONNECT_TCP if ports is not None and abi >= CONNECTIONS_ABI else 0
    scoped = _SCOPE_ABSTRACT_UNIX_SOCKET | _SCOPE_SIGNAL if abi >= SIGNALS_ABI else 0
    attributes = struct.pack("=QQQ", known, connections, scoped)[
        : 8 if abi < CONNECTIONS_ABI else 16 if abi < SIGNALS_ABI else 24
    ]
    ruleset = _check(
        _LIBC.syscall(_SYS_LANDLOCK_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0), "Landlock"
    )
    try:
        for paths, rights in ((reads, _READ), (writes, _WRITE), (executes or [], _EXECUTE | _READ)):
            for path in paths:
                _allow(ruleset, path, rights & known)
        for port in (ports or []) if connections else []:
            rule = struct.pack("=QQ", _CONNECT_TCP, port)
            _check(_LIBC.syscall(_SYS_LANDLOCK_ADD_RULE, ruleset, _RULE_PORT, rule, 0), "Landlock")
        _check(_LIBC.syscall(_SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0), "Landlock")
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= _OF_FILES
        rule = struct.pack("=Qi", rights, descriptor)
        _check(_LIBC.syscall(_SYS_LANDLOCK_ADD_RULE, ruleset, _RULE_PATH, rule, 0), "Landlock")
    finally:
        os.close(descriptor)


def needed_to_run(program: str) -> list[str] | None:
    """The files that the kernel executes for a program: the program, and the dynamic loader that its ELF header names.

    None for a script, which may execute anything: an operator has put it in the program's place.
    """
    with open(program, "rb") as file:  # noqa: PTH123 -- pathlib takes as long to import as all the rest
        head = file.read(64)
        if head[:5] != b"\x7fELF\x02":
            return None
        order = "<" if head[5] == 1 else ">"
        (table,), (size, count) = struct.unpack_from(f"{order}Q", head, 32), struct.unpack_from(f"{order}HH", head, 54)
        for number in range(count):
            file.seek(table + number * size)
            kind, _, offset, _, _, length = struct.unpack(f"{order}IIQQQQ", file.read(40))
            if kind == _PT_INTERP:
                file.seek(offset)
                return [program, file.read(length).rstrip(b"\0").decode()]
    return [program]


def hand_sockets_over() -> None:
    """Move the sockets from standard input and output to the descriptors of sd_listen_fds(3)."""
    os.dup2(0, 3)
    os.dup2(1, 4)
    os.dup2(2, 1)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.close(nothing)


def _check(result: int, doing: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{doing}: {os.strerror(number)}")
    return result


def main(argv: list[str]) -> int:
    """Restrict ourselves and execute the program. Returns only when that fails."""
    asked, program, *arguments = argv
    try:
        restrictions = json.loads(asked)
        for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # by Python; the program expects the default
            signal.signal(ignored, signal.SIG_DFL)
        files = restrictions["open_files"]
        if files is not None:
            _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (files if most == -1 else min(files, most), most))
        paths = restrictions["paths"]
        if restrictions["uid"] is not None or paths is not None:
            forbid_capabilities()
        if restrictions["uid"] is not None:
            become(restrictions["uid"], restrictions["gid"])
        if restrictions["uid"] is not None or paths is not None:
            drop_capabilities()
        forbid_new_privileges()
        if restrictions["parent"] is not None:
            die_with(restrictions["parent"])
        abi = landlock_abi() if paths is not None else 0
        if abi:
            restrict(**paths, executes=needed_to_run(program), abi=abi)
        environment = dict(os.environ) if restrictions["environment"] is None else restrictions["environment"]
        if restrictions["listens"]:
            hand_sockets_over()
            environment["LISTEN_PID"] = str(os.getpid())
        os.execve(program, [program, *arguments], environment)  # noqa: S606 -- by argv, as everything here
    except (OSError, ValueError, struct.error) as error:
        os.write(2, f"{program} cannot be started: {error}\n".encode(errors="replace"))
    return FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
