"""Whose question is answered next."""

import threading
from collections.abc import Iterator
from functools import partial

import pytest

from snaphold.agent.host_calls import HostCalls
from tests.support.instances import wait_for


class Slow:
    """HostCalls that are answered when they are told to be."""

    def __init__(self, host_calls: HostCalls) -> None:
        self._host_calls = host_calls
        self._ends: dict[str, threading.Event] = {}
        self.begun: list[str] = []
        self.ended: list[str] = []

    def ask(self, account: str, instance: str, name: str) -> None:
        """One more."""
        self._ends[name] = threading.Event()
        self._host_calls.submit(account, instance, partial(self._answer, name))

    def end(self, *names: str) -> None:
        """Have these answered now."""
        for name in names or tuple(self._ends):
            self._ends[name].set()

    def _answer(self, name: str) -> None:
        self.begun.append(name)
        self._ends[name].wait(30)
        self.ended.append(name)


@pytest.fixture
def slow() -> Iterator[Slow]:
    """On three threads, of which an account has two at most."""
    host_calls = HostCalls(threads=3, share=2)
    slow = Slow(host_calls)
    yield slow
    slow.end()
    host_calls.shutdown()


def test_an_instance_has_one_question_at_a_time(slow: Slow) -> None:
    """The second waits for the first; another instance's does not."""
    slow.ask("a", "1", "first")
    slow.ask("a", "1", "second")
    slow.ask("b", "2", "other")
    wait_for(lambda: sorted(slow.begun) == ["first", "other"], "both instances' questions")
    slow.end("first")
    wait_for(lambda: slow.begun[-1] == "second", "the next question of the instance")
    assert slow.ended == ["first"]


def test_an_account_never_has_all_threads(slow: Slow) -> None:
    """However many slow servers an account asks, another account's question begins at once."""
    for number in range(9):
        slow.ask("a", f"a{number}", f"a{number}")
    slow.ask("b", "b", "b")
    wait_for(lambda: sorted(slow.begun) == ["a0", "a1", "b"], "the share of each")
    slow.end("a1")
    wait_for(lambda: slow.begun[-1] == "a2", "the account's next question")


def test_the_account_with_the_fewest_is_next(slow: Slow) -> None:
    """A thread that gets free goes to the account that has none, whoever came before."""
    for name in ("a1", "a2"):
        slow.ask("a", name, name)
    slow.ask("b", "b1", "b1")
    wait_for(lambda: len(slow.begun) == 3, "all threads")
    slow.ask("b", "b2", "b2")
    slow.ask("c", "c1", "c1")
    slow.end("a1")
    wait_for(lambda: slow.begun[-1] == "c1", "the account that had none")
    slow.end("a2")
    wait_for(lambda: slow.begun[-1] == "b2", "the one that came first")


def test_a_question_that_fails_gives_its_place_back(slow: Slow) -> None:
    """The instance's next question is answered all the same."""

    def fail() -> None:
        raise OSError

    slow._host_calls.submit("a", "1", fail)
    slow.ask("a", "1", "next")
    wait_for(lambda: slow.begun == ["next"], "the next question")
