"""Stopping an agent or a control process at a named step, and killing whatever is to be killed meanwhile."""

import os
from pathlib import Path

from snaphold.steps import Step
from tests.scenarios.served import eventually


class Pauses:
    """``environment`` is what the service must be started with. One step at a time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._directory.mkdir()
        self._at = directory / "at"
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parent / "pause"),
            "PAUSE_DIRECTORY": str(directory),
        }

    def at(self, step: Step) -> None:
        """Have whoever reaches this step next wait there; who waits at another one goes on."""
        (self._directory / step).unlink(missing_ok=True)
        new = self._directory / "new"
        new.write_text(step.value, "ascii")
        new.rename(self._at)

    def reached(self) -> int:
        """The process id of who waits at the step, once somebody does."""
        step = self._at.read_text("ascii")
        path = self._directory / step
        eventually(path.exists, f"somebody to reach {step}")
        return int(path.read_text("ascii"))

    def over(self) -> None:
        """Let whoever waits go on, if it still lives."""
        self._at.unlink()
