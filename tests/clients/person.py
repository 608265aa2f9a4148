"""Who uses a client, as it was installed into an environment of its own: a person at a shell, or a program."""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).parent
ENVIRONMENTS: Final = HERE.parents[1] / ".cache" / "clients"


def python_of(environment: str) -> Path:
    """The Python that a client is installed for; that it is not there is a failure, `make clients` repairs it."""
    python = ENVIRONMENTS / environment / "bin" / "python"
    assert python.exists(), f"{python} is missing: run `make clients`"
    return python


def alone_in(home: Path) -> dict[str, str]:
    """The environment variables of somebody who has set none: what clients cache goes below ``home``."""
    return {"PATH": os.environ["PATH"], "HOME": str(home), "LC_ALL": "C.UTF-8", "PYTHONWARNINGS": "ignore"}


@dataclass(frozen=True, kw_only=True)
class Person:
    """Types commands; the options that say where and who (``login``) stand before each."""

    shell: subprocess.Popen[str]
    login: Sequence[str]

    def does(self, *words: str) -> str:
        """What a command shows, which must succeed without a complaint."""
        status, out, err = self._type(words)
        assert (status, err) == (0, ""), f"{words}: {status} {out} {err}"
        return out

    def read(self, *words: str) -> Any:
        """What such a command shows, where that is JSON."""
        return json.loads(self.does(*words))

    def refused(self, *words: str) -> str:
        """What a command says that must fail."""
        status, _, err = self._type(words)
        assert status == 1, f"{words}: {status} {err}"
        return err

    def _type(self, words: Sequence[str]) -> tuple[int, str, str]:
        assert self.shell.stdin is not None
        assert self.shell.stdout is not None
        self.shell.stdin.write(json.dumps([*self.login, *words]) + "\n")
        self.shell.stdin.flush()
        ended = json.loads(self.shell.stdout.readline())
        return ended["status"], ended["out"], ended["err"]


@contextmanager
def person(
    environment: str, command: str, modules: Sequence[str], login: Sequence[str], home: Path
) -> Iterator[Person]:
    """Somebody who uses ``command`` of this environment, whose main module is the first of ``modules``."""
    words = [str(python_of(environment)), str(HERE / "shell.py"), command, *modules]
    shell = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=alone_in(home))
    with shell:
        yield Person(shell=shell, login=login)


@dataclass(frozen=True, kw_only=True)
class Program:
    """Uses a client's Python API."""

    process: subprocess.Popen[str]

    def call(self, path: str, *arguments: object, **keywords: object) -> Any:
        """What a call gives, which must succeed; an object as the JSON that it was made of."""
        answer = self._ask(path, arguments, keywords)
        assert "result" in answer, f"{path}: {answer}"
        return answer["result"]

    def refused(self, path: str, *arguments: object, **keywords: object) -> Any:
        """The class, code and text of what a call raises."""
        answer = self._ask(path, arguments, keywords)
        assert "error" in answer, f"{path}: {answer}"
        return answer["error"]

    def _ask(self, path: str, arguments: Sequence[object], keywords: Mapping[str, object]) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([path, arguments, keywords]) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@contextmanager
def program(environment: str, client: str, home: Path, **facts: str) -> Iterator[Program]:
    """A program with the ``client`` of this environment, a function of ``api.py``, which takes these facts."""
    words = [str(python_of(environment)), str(HERE / "api.py"), client, json.dumps(facts)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=alone_in(home))
    with process:
        yield Program(process=process)
