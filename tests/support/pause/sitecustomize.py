"""Lets a test stop an agent between two named steps (snaphold.steps); never a part of the service.

Python imports this module at its start when this directory is on PYTHONPATH. In a process whose command line says
``agent``, and when PAUSE_DIRECTORY is set: an agent that reaches the step named in ``PAUSE_DIRECTORY/at`` writes its
process id to ``PAUSE_DIRECTORY/reached`` and waits there until ``at`` is gone, or until it is killed.
"""

import os
import sys
import time
from pathlib import Path

if "agent" in sys.orig_argv and "PAUSE_DIRECTORY" in os.environ:
    from snaphold.steps import Step, observers

    directory = Path(os.environ["PAUSE_DIRECTORY"])

    def _wanted() -> str:
        try:
            return (directory / "at").read_text("ascii")
        except FileNotFoundError:
            return ""

    def _pause(step: Step) -> None:
        if _wanted() == step:
            (directory / "new").write_text(str(os.getpid()), "ascii")
            (directory / "new").rename(directory / "reached")
            while _wanted() == step:
                time.sleep(0.01)

    observers.append(_pause)
