import secrets
import threading

import pytest

from snaphold.agent.control import Control, until_answered
from snaphold.agent.lease import Lease
from snaphold.errors import Superseded, Transient, Unauthorized
from snaphold.protocol import Claim, Hello, Task
from tests.agent.conftest import LEASE_S, RENEW_S, Place
from tests.support.instances import wait_for


def claimed(place: Place) -> tuple[str, Task]:
    """A backup that an agent has claimed, and the session that did."""
    instance = place.site.instance()
    place.site.ok("POST", "/backups", {"backup": {"name": "b", "instance": instance["id"]}})
    session = secrets.token_hex(16)
    hello = Hello(session=session, datastores=[], instances=[], shared_system_user=False, accepts_shared=True)
    place.control.hello(hello)
    task = place.control.claim(Claim(session=session, wait_s=0)).task
    assert task is not None
    return session, task


def test_a_lease_is_renewed_as_long_as_the_attempt_works(place: Place) -> None:
    """Time passes, but an attempt that works is never abandoned."""
    session, task = claimed(place)
    with Lease(place.control, session, task, RENEW_S) as lease:
        for _ in range(3):
            renewed = place.line.arrived["progress"]
            place.site.region.clock.advance(LEASE_S / 2)
            wait_for(lambda renewed=renewed: place.line.arrived["progress"] > renewed + 1, "a renewal")  # type: ignore[misc]
        lease.check()


def test_news_reaches_the_record(place: Place) -> None:
    """What an attempt tells is shown while it goes on; what was told once is not forgotten."""
    session, task = claimed(place)
    assert task.backup is not None
    path = f"/backups/{task.backup.id}"
    with Lease(place.control, session, task, RENEW_S) as lease:
        lease.tell(size_bytes=1 << 30, expected_bytes=1000)
        lease.tell(done_bytes=500)
        wait_for(lambda: place.site.ok("GET", path)["backup"]["size"] == 1, "the size")
        assert place.site.ok("GET", path)["backup"]["progress"]["percent"] == 50
        lease.tell(done_bytes=1600)
        told = wait_for_progress(place, path, 1600)
        assert (told["expected_bytes"], told["percent"]) == (1700, 94)


def wait_for_progress(place: Place, path: str, done_bytes: int) -> dict[str, int]:
    """What is shown once so much is done."""
    wait_for(lambda: place.site.ok("GET", path)["backup"]["progress"]["done_bytes"] == done_bytes, "the progress")
    progress: dict[str, int] = place.site.ok("GET", path)["backup"]["progress"]
    return progress


def test_an_attempt_that_was_given_up_is_told(place: Place) -> None:
    """An superseded attempt learns it at its next renewal, and stops."""
    session, task = claimed(place)
    with Lease(place.control, session, task, RENEW_S) as lease:
        lease.check()
        assert place.give_up() == 1
        assert lease.stop.wait(10)
        with pytest.raises(Superseded):
            lease.check()


def test_a_silent_api_stops_nobody(place: Place) -> None:
    """Silence is no verdict: the attempt goes on, and its news is told when the line is back."""
    session, task = claimed(place)
    assert task.backup is not None
    with Lease(place.control, session, task, RENEW_S) as lease:
        place.line.cut.set()
        lease.tell(size_bytes=2 << 30)
        lease.confirm()
        lease.check()
        place.line.cut.clear()
        path = f"/backups/{task.backup.id}"
        wait_for(lambda: place.site.ok("GET", path)["backup"]["size"] == 2, "the size")


def test_a_wrong_token(place: Place) -> None:
    """A token that the API does not know is told apart from silence; a new one in the file is used at once."""
    (place.directory / "wrong").write_text("wrong", "ascii")
    control = Control(place.control.url, place.directory / "wrong")
    with pytest.raises(Unauthorized):
        control.claim(Claim(session="s", wait_s=0))
    (place.directory / "wrong").write_text(place.site.region.token, "ascii")
    assert control.claim(Claim(session=place.site.region.session, wait_s=0)).task is None


def test_the_session_of_an_earlier_process(place: Place) -> None:
    """Whoever spoke for the host before is told that it does not any more."""
    claimed(place)
    with pytest.raises(Superseded):
        place.control.claim(Claim(session=place.site.region.session, wait_s=0))


def test_repeating_until_somebody_answers() -> None:
    """A call is repeated while nobody answers, and abandoned only when the process stops."""
    stopping = threading.Event()
    answers = iter([Transient("silent"), Unauthorized("not yet"), "yes"])

    def call() -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    assert until_answered(call, stopping) == "yes"

    def silent() -> None:
        raise Transient("silent")

    stopping.set()
    with pytest.raises(Transient):
        until_answered(silent, stopping)
