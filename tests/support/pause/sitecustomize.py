"""Lets a test stop a process between two named steps (snaphold.steps); never a part of the service.

Python imports this module at its start when this directory is on PYTHONPATH. In a process that does such steps, and
when PAUSE_DIRECTORY is set: who reaches the step named in ``PAUSE_DIRECTORY/at`` writes its process id to
``PAUSE_DIRECTORY/<step>`` and waits there until ``at`` says something else, or until it is killed.
"""

import os
import sys
import time
from pathlib import Path

if {"agent", "api", "rebuild", "state"} & set(sys.orig_argv) and "PAUSE_DIRECTORY" in os.environ:
    from snaphold.steps import Step, observers

    directory = Path(os.environ["PAUSE_DIRECTORY"])

    def _wanted() -> str:
        try:
            return (directory / "at").read_text("ascii")
        except FileNotFoundError:
            return ""

    def _pause(step: Step) -> None:
        if _wanted() == step:
            new = directory / f"new.{os.getpid()}"
            new.write_text(str(os.getpid()), "ascii")
            new.rename(directory / step)
            while _wanted() == step:
                time.sleep(0.01)

    observers.append(_pause)
