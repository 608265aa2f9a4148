"""The same thing asked for twice at once, through two API processes: one wins, the other gets its documented code."""

import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from tests.scenarios.served import ACCOUNT, Served, eventually, free_port, served, snaphold

pytestmark = pytest.mark.engine

ROUNDS: Final = 5


class Doors:
    """A service with a second API process on the same record."""

    def __init__(self, service: Served, url: str) -> None:
        self.service = service
        first = f"http://127.0.0.1:{service.ports['DFW']}"
        headers = {"X-Auth-Token": service.token or ""}
        self.clients = [
            httpx.Client(base_url=base, headers=headers, trust_env=False, timeout=60) for base in (first, url)
        ]
        self.source = service.instance()
        for client in self.clients:  # neither is slow because it is asked for the first time
            client.get(f"/v1.0/{ACCOUNT}/instances").raise_for_status()

    def at_once(self, *requests: tuple[str, str, object]) -> list[httpx.Response]:
        """Send requests at the same moment, in turn to the one process and the other; their answers in order."""
        start = threading.Barrier(len(requests))

        def send(number: int, method: str, path: str, body: object) -> httpx.Response:
            start.wait()
            return self.clients[number % 2].request(method, f"/v1.0/{ACCOUNT}{path}", json=body)

        with ThreadPoolExecutor(len(requests)) as pool:
            sent = [pool.submit(send, number, *request) for number, request in enumerate(requests)]
            return [future.result() for future in sent]

    def status(self, path: str) -> str | None:
        """The status of a thing; None when it is gone."""
        answer = self.service.call("GET", path)
        if answer.status_code == 404:
            return None
        (thing,) = answer.json().values()
        return str(thing["status"])


@contextmanager
def another_api(service: Served) -> Iterator[str]:
    """A second API process of the region, without a worker; its URL."""
    port = free_port()
    words = snaphold("api", "--state-dir", service.state_dir, f"--region=DFW=127.0.0.1:{port}")
    with service.log.open("ab") as log:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        eventually(lambda: service._answers(port), f"an answer on port {port}")
        yield url
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def doors(lasting_state_dir: Path, instance_network: str) -> Iterator[Doors]:
    """One service for every race."""
    with served(lasting_state_dir, instance_network) as service, another_api(service) as url:
        yield Doors(service, url)


def codes(answers: Sequence[httpx.Response]) -> list[int]:
    """Their status codes, sorted."""
    return sorted(answer.status_code for answer in answers)


def test_two_backups_at_once(doors: Doors) -> None:
    """Of requests for a backup of one instance exactly one is accepted; every other one is told that it is busy."""
    request = ("POST", "/backups", {"backup": {"name": "b", "instance": doors.source["id"]}})
    for _ in range(ROUNDS):
        answers = doors.at_once(request, request, request, request)
        assert codes(answers) == [202, 422, 422, 422]
        (won,) = (answer.json()["backup"]["id"] for answer in answers if answer.status_code == 202)
        doors.service.reaches(f"/backups/{won}", "COMPLETED")
    rows = doors.service.ok("GET", "/backups?limit=100")["backups"]
    assert [row["status"] for row in rows] == ["COMPLETED"] * ROUNDS


def test_two_deletes_of_a_backup_at_once(doors: Doors) -> None:
    """Both are accepted, as a later one would be, and the backup is deleted once."""
    for _ in range(ROUNDS):
        path = f"/backups/{doors.service.backup(doors.source)['id']}"
        answers = doors.at_once(("DELETE", path, None), ("DELETE", path, None))
        assert set(codes(answers)) <= {202, 404}
        assert 202 in codes(answers)
        eventually(lambda path=path: doors.status(path) is None, f"{path} to be gone")  # type: ignore[misc]
        log = doors.service.log.read_text(errors="replace")
        backup_id = path.rpartition("/")[2]
        assert log.count(f"event=backup.deleted backup={backup_id}") == 1


def test_a_delete_and_a_restore_of_a_backup_at_once(doors: Doors) -> None:
    """Either the restore wins and the backup is in use, or the delete wins and there is nothing to restore from."""
    for _ in range(ROUNDS):
        backup = doors.service.backup(doors.source)
        path = f"/backups/{backup['id']}"
        wanted = {"instance": {"name": "r", "flavorRef": 1, "restorePoint": {"backupRef": backup["id"]}}}
        deleted, restored = doors.at_once(("DELETE", path, None), ("POST", "/instances", wanted))
        if restored.status_code == 200:
            assert (deleted.status_code, deleted.json()) == (
                422,
                {"unprocessableEntity": {"code": 422, "message": f"Backup {backup['id']} is in use."}},
            )
            instance = f"/instances/{restored.json()['instance']['id']}"
            doors.service.reaches(instance, "ACTIVE")
            doors.service.ok("DELETE", instance)
            eventually(lambda instance=instance: doors.status(instance) is None, "the instance to be gone")  # type: ignore[misc]
            doors.service.ok("DELETE", path)
        else:
            assert (deleted.status_code, restored.status_code) in {(202, 422), (202, 404)}
        eventually(lambda path=path: doors.status(path) is None, f"{path} to be gone")  # type: ignore[misc]
        assert doors.service.objects_of(backup) == []


def test_a_delete_and_an_increment_of_a_backup_at_once(doors: Doors) -> None:
    """Either the increment wins and its parent cannot go while it runs, or the delete wins and there is no parent."""
    for _ in range(ROUNDS):
        parent = doors.service.backup(doors.source)
        path = f"/backups/{parent['id']}"
        wanted = {"backup": {"name": "i", "instance": doors.source["id"], "parent_id": parent["id"]}}
        deleted, taken = doors.at_once(("DELETE", path, None), ("POST", "/backups", wanted))
        if taken.status_code == 202:
            assert deleted.status_code == 422
            increment = f"/backups/{taken.json()['backup']['id']}"
            doors.service.reaches(increment, "COMPLETED")
            doors.service.ok("DELETE", path)
            eventually(lambda increment=increment: doors.status(increment) is None, "the increment to be gone")  # type: ignore[misc]
        else:
            assert (deleted.status_code, taken.status_code) in {(202, 422), (202, 404)}
        eventually(lambda path=path: doors.status(path) is None, f"{path} to be gone")  # type: ignore[misc]
        assert doors.service.objects_of(parent) == []


def test_two_cancels_of_a_backup_at_once(doors: Doors) -> None:
    """One ends the backup, the other is told that it does not run; a backup that was faster stays COMPLETED."""
    for _ in range(ROUNDS):
        wanted = {"backup": {"name": "c", "instance": doors.source["id"]}}
        backup = doors.service.ok("POST", "/backups", wanted)["backup"]
        path = f"/backups/{backup['id']}"
        cancel: tuple[str, str, object] = ("POST", f"{path}/action", {"cancel": {}})
        answers = codes(doors.at_once(cancel, cancel))
        if answers == [202, 422]:
            assert doors.status(path) == "FAILED"
        else:
            assert answers == [422, 422]
            assert doors.status(path) == "COMPLETED"
        source = f"/instances/{doors.source['id']}"
        eventually(lambda source=source: doors.status(source) == "ACTIVE", "the instance to be free")  # type: ignore[misc]
        doors.service.ok("DELETE", path)
        eventually(lambda path=path: doors.status(path) is None, f"{path} to be gone")  # type: ignore[misc]
        eventually(lambda backup=backup: doors.service.objects_of(backup) == [], "nothing to be left")  # type: ignore[misc]


def ways_to_be_busy(instance: Any) -> list[tuple[str, str, object]]:
    """Requests of which an instance can serve only one at a time."""
    path = f"/instances/{instance['id']}"
    return [
        ("POST", "/backups", {"backup": {"name": "b", "instance": instance["id"]}}),
        ("POST", f"{path}/action", {"restart": {}}),
        ("DELETE", path, None),
    ]


@pytest.mark.parametrize("order", [lambda ways: ways, lambda ways: ways[::-1]], ids=["forth", "back"])
def test_an_instance_serves_one_request_at_a_time(doors: Doors, order: Callable[[list[Any]], list[Any]]) -> None:
    """Of a backup, a restart and a delete that come at once exactly one is accepted; the others are told so.

    Who comes after the delete was done is told that there is no such instance.
    """
    instance = doors.service.instance()
    path = f"/instances/{instance['id']}"
    answers = doors.at_once(*order(ways_to_be_busy(instance)))
    assert codes(answers) in ([202, 422, 422], [202, 404, 422], [202, 404, 404])
    (won,) = (answer.request.method for answer in answers if answer.status_code == 202)
    assert won == "DELETE" or 404 not in codes(answers)
    eventually(lambda: doors.status(path) in {"ACTIVE", None}, "the instance to be free or gone")
    if doors.status(path) is not None:
        doors.service.ok("DELETE", path)
        eventually(lambda: doors.status(path) is None, "the instance to be gone")
