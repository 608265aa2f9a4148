"""Runs a client's commands one after the other, each in a fork that finds the client's modules imported already.

To be run by the client's own Python: ``shell.py COMMAND MODULE...``, where the first module has the command's ``main``
and the others are imported only to be there. Each line of standard input is a JSON list of words, the command's
arguments; each is answered by a line of JSON ``{"status", "out", "err"}``. What ``main`` does, raises and returns is
treated as a console script treats it.
"""

import importlib
import json
import os
import sys
import tempfile
from typing import IO, Any


def run(main: Any, argv: list[str], out: IO[bytes], err: IO[bytes]) -> int:
    """The exit status of one command, whose output goes to these files."""
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        sys.argv[:] = argv
        sys.exit(main())
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def text(file: IO[bytes]) -> str:
    """All that was written."""
    file.seek(0)
    return file.read().decode()


if __name__ == "__main__":
    command, *names = sys.argv[1:]
    modules = [importlib.import_module(name) for name in names]
    for line in sys.stdin:
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            status = run(modules[0].main, [command, *json.loads(line)], out, err)
            sys.stdout.write(json.dumps({"status": status, "out": text(out), "err": text(err)}) + "\n")
        sys.stdout.flush()
