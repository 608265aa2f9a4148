"""How many files a process of ours may have open."""

import subprocess
import sys

SCRIPT = """
import resource, sys
from snaphold.cli import main
sys.argv = ["snaphold", "version"]
try:
    main()
except SystemExit:
    print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_the_soft_limit_is_raised() -> None:
    """Every command raises its soft limit of open files, 1,024 on most machines, to the hard one."""
    limited = ["bash", "-c", 'ulimit -Sn 256; ulimit -Hn 9000; exec "$@"', "-", sys.executable, "-c", SCRIPT]
    said = subprocess.run(limited, capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-1] == "9000 9000"
