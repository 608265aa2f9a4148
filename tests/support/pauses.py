"""Stopping an agent at a named step, and killing whatever is to be killed meanwhile."""

import os
from pathlib import Path

from snaphold.steps import Step
from tests.scenarios.served import eventually


class Pauses:
    """``environment`` is what the service must be started with. One step at a time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._directory.mkdir()
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parent / "pause"),
            "PAUSE_DIRECTORY": str(directory),
        }

    def at(self, step: Step) -> None:
        """Have the agent pause the next time that it reaches this step."""
        (self._directory / "at").write_text(step.value, "ascii")

    def reached(self) -> int:
        """The process id of the agent, once it has reached the step and waits there."""
        path = self._directory / "reached"
        eventually(path.exists, "the agent to reach the step")
        return int(path.read_text("ascii"))

    def over(self) -> None:
        """Let the agent go on, if it still lives."""
        (self._directory / "at").unlink()
        (self._directory / "reached").unlink(missing_ok=True)
