"""Any order of backups, restores and deletes over HTTP, against a small model of what each answer must be."""

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from snaphold.protocol import TaskKind
from snaphold.task_kinds import TASK_KINDS
from snaphold.worker.deletion import Remover
from tests.api.site import FAULTS, Site, opened_site

RUNNING: Final = {"NEW", "BUILDING"}
GONE: Final = str(uuid.UUID(int=7))
BUILT: Final = {"port": 3306, "used_bytes": 1 << 30, "full_version": "10.11.19"}
choice = st.integers(min_value=0, max_value=9)


@dataclass
class ModelInstance:
    """What the account knows of an instance."""

    id: str
    status: str = "BUILD"
    deleting: bool = False


@dataclass
class ModelBackup:
    """What the account knows of a backup."""

    id: str
    instance: ModelInstance
    parent: "ModelBackup | None" = None
    status: str = "NEW"
    deleting: bool = False

    @property
    def usable(self) -> bool:
        """It can be restored, and be a parent."""
        return self.status == "COMPLETED" and not self.deleting

    def stands_on(self, other: "ModelBackup") -> bool:
        """Whether this is the other one, or an increment of it, however far off."""
        return self is other or (self.parent is not None and self.parent.stands_on(other))


@dataclass
class ModelTask:
    """What the host is to do, or does."""

    kind: str
    instance: ModelInstance
    backup: ModelBackup | None = None
    given: dict[str, Any] | None = None


class Account(RuleBasedStateMachine):
    """A fresh account's requests, its host, and the worker that removes objects, at one site for all accounts."""

    site: ClassVar[Site]

    def __init__(self) -> None:
        super().__init__()
        self.account = uuid.uuid4().hex[:12]
        key = self.site.identity.add_account(self.account, f"u{self.account}", None, [])["api_key"]
        credentials = {"username": f"u{self.account}", "apiKey": key}
        answer = self.site.send("POST", "/v2.0/tokens", json={"auth": {"RAX-KSKEY:apiKeyCredentials": credentials}})
        self.token = answer.json()["access"]["token"]["id"]
        self.instances: list[ModelInstance] = []
        self.backups: list[ModelBackup] = []
        self.tasks: list[ModelTask] = []

    def teardown(self) -> None:
        """Leave the host without work for the next account."""
        while any(task.given is None for task in self.tasks):
            self.claim()
        while self.tasks:
            self.report(0, ok=True)

    @initialize()
    def start(self) -> None:
        """There is one instance to begin with."""
        self.create()
        self.claim()
        self.report(0, ok=True)

    @precondition(lambda self: len(self.instances) < 4)
    @rule()
    def create(self) -> None:
        """Ask for an instance."""
        made = self._ask("POST", "/instances", 200, {"instance": {"flavorRef": 1, "volume": {"size": 1}}})
        self._begin(ModelTask("create", ModelInstance(made["instance"]["id"])))

    @rule(n=choice)
    def back_up(self, n: int) -> None:
        """Ask for a full backup of some instance."""
        instance = self._some(self.instances, n)
        self._back_up(instance, None, 404 if instance is None else 202, {})

    @rule(n=choice)
    def add_to_the_newest(self, n: int) -> None:
        """Ask for an increment of some instance, on whatever there is."""
        instance = self._some(self.instances, n)
        parents = [backup for backup in self.backups if backup.instance is instance and backup.usable]
        parent = parents[-1] if parents else None
        self._back_up(instance, parent, 404 if instance is None else 202, {"incremental": 1})

    @rule(n=choice, m=choice)
    def add_to(self, n: int, m: int) -> None:
        """Ask for an increment of some instance on some backup, of whatever instance that is."""
        instance, parent = self._some(self.instances, n), self._some(self.backups, m)
        if instance is None or parent is None:
            code = 404
        elif parent.instance is not instance:
            code = 400
        else:
            code = 202 if parent.usable else 422
        self._back_up(instance, parent, code, {"parent_id": GONE if parent is None else parent.id})

    @rule(n=choice)
    def restore(self, n: int) -> None:
        """Ask for an instance from some backup."""
        backup = self._some(self.backups, n)
        code = 404
        if backup is not None:
            code = 200 if backup.usable else 422
        reference = GONE if backup is None else backup.id
        body = {"instance": {"flavorRef": 1, "restorePoint": {"backupRef": reference}}}
        made = self._ask("POST", "/instances", code, body)
        if code == 200:
            self._begin(ModelTask("restore", ModelInstance(made["instance"]["id"]), backup))

    @rule(n=choice)
    def delete_instance(self, n: int) -> None:
        """Delete some instance."""
        instance = self._some(self.instances, n)
        if instance is None:
            self._ask("DELETE", f"/instances/{GONE}", 404)
            return
        free = instance.status in {"ACTIVE", "ERROR"}
        self._ask("DELETE", f"/instances/{instance.id}", 202 if free or instance.deleting else 422)
        if free and not instance.deleting:
            instance.status, instance.deleting = "SHUTDOWN", True
            self.tasks.append(ModelTask("delete", instance))

    @rule(n=choice)
    def delete_backup(self, n: int) -> None:
        """Delete some backup."""
        backup = self._some(self.backups, n)
        if backup is None:
            self._ask("DELETE", f"/backups/{GONE}", 404)
            return
        family = [member for member in self.backups if member.stands_on(backup)]
        kept = any(member.status in RUNNING for member in family) or any(
            task.kind == "restore" and task.backup in family for task in self.tasks
        )
        self._ask("DELETE", f"/backups/{backup.id}", 422 if kept and not backup.deleting else 202)
        for member in family:
            member.deleting = member.deleting or not kept

    @rule()
    def remove(self) -> None:
        """The worker removes the objects of whatever is being deleted."""
        deployment = self.site.region.deployment
        Remover(deployment.catalog, self.site.stores, deployment.deployment_id).retry_deletions()
        self.backups = [backup for backup in self.backups if not backup.deleting]

    @precondition(lambda self: any(task.given is None for task in self.tasks))
    @rule()
    def claim(self) -> None:
        """The host takes the most urgent task, and of these the one that has waited longest."""
        waiting = [task for task in self.tasks if task.given is None]
        task = min(waiting, key=lambda task: TASK_KINDS[TaskKind(task.kind)].urgency)
        given = self.site.claim()["task"]
        assert (given["kind"], given["instance_id"]) == (task.kind, task.instance.id)
        task.given = given
        stands_on = [] if task.backup is None else [b for b in self.backups if task.backup.stands_on(b)]
        if task.kind == "backup":
            stands_on = [backup for backup in stands_on if backup is not task.backup]
        assert [link["backup_id"] for link in given["chain"]] == [backup.id for backup in stands_on]
        if task.kind == "backup" and task.backup is not None:
            task.backup.status = "BUILDING"

    @precondition(lambda self: any(task.given is not None for task in self.tasks))
    @rule(n=choice, ok=st.booleans())
    def report(self, n: int, ok: bool) -> None:  # noqa: FBT001 - Hypothesis hands it over by name
        """Some claimed task ends, well or badly."""
        given = [task for task in self.tasks if task.given is not None]
        task = given[n % len(given)]
        self.tasks.remove(task)
        details = task.given or {}
        message: dict[str, Any] = {"session": self.site.region.session, "attempt": details["attempt"], "ok": ok}
        if not ok:
            message["reason"] = "it was told to fail"
        elif task.kind == "backup":
            message["backup"] = self.site.stored_backup(details)
        else:
            address = (details["instance"] or {}).get("address", "127.77.0.1")
            message["instance"] = BUILT | {"address": address}
        answer = self.site.agent(f"tasks/{details['id']}/report", message)
        assert answer.status_code == 200, answer.text
        self._end(task, ok=ok)

    @invariant()
    def every_answer_is_as_the_model_has_it(self) -> None:
        """All there is is listed, newest first, with the status of the model, and shown alike."""
        listed = self._ask("GET", "/backups?limit=100", 200)["backups"]
        assert [(row["id"], row["status"], row["parent_id"]) for row in listed] == [
            (backup.id, backup.status, None if backup.parent is None else backup.parent.id)
            for backup in reversed(self.backups)
        ]
        there = self._ask("GET", "/instances?limit=100", 200)["instances"]
        assert [(row["id"], row["status"]) for row in there] == [(i.id, i.status) for i in reversed(self.instances)]
        for row in listed[:1]:
            assert self._ask("GET", f"/backups/{row['id']}", 200) == {"backup": row}

    @rule(limit=st.integers(min_value=1, max_value=3))
    def read_in_pages(self, limit: int) -> None:
        """Page after page, by the links of the answers, there is every backup once."""
        path, seen = f"/backups?limit={limit}", []
        while path:
            page = self._ask("GET", path, 200)
            seen += [row["id"] for row in page["backups"]]
            path = page["links"][0]["href"].partition(f"/v1.0/{self.account}")[2] if "links" in page else ""
        assert seen == [backup.id for backup in reversed(self.backups)]

    @rule(n=choice)
    def read_of_an_instance(self, n: int) -> None:
        """An instance's list has its backups and no others."""
        instance = self._some(self.instances, n)
        if instance is not None:
            listed = self._ask("GET", f"/instances/{instance.id}/backups", 200)["backups"]
            expected = [backup.id for backup in reversed(self.backups) if backup.instance is instance]
            assert [row["id"] for row in listed] == expected

    def _back_up(self, instance: Any, parent: Any, code: int, more: dict[str, object]) -> None:
        """``code``: the answer when the instance is free, or is none."""
        busy = instance is not None and instance.status != "ACTIVE"
        wanted = {"name": "b", "instance": GONE if instance is None else instance.id, **more}
        made = self._ask("POST", "/backups", 422 if busy else code, {"backup": wanted})
        if "backup" in made:
            backup = ModelBackup(made["backup"]["id"], instance, parent)
            self.backups.append(backup)
            instance.status = "BACKUP"
            self.tasks.append(ModelTask("backup", instance, backup))

    def _begin(self, task: ModelTask) -> None:
        self.instances.append(task.instance)
        self.tasks.append(task)

    def _end(self, task: ModelTask, *, ok: bool) -> None:
        if task.kind == "backup" and task.backup is not None:
            task.backup.status = "COMPLETED" if ok else "FAILED"
            task.instance.status = "ACTIVE"
        elif not ok:
            task.instance.status, task.instance.deleting = "ERROR", False
        elif task.kind == "delete":
            self.instances.remove(task.instance)
        else:
            task.instance.status = "ACTIVE"

    def _ask(self, method: str, path: str, code: int, body: object = None) -> Any:
        headers = {"X-Auth-Token": self.token}
        answer = self.site.send(method, f"/v1.0/{self.account}{path}", json=body, headers=headers)
        assert answer.status_code == code, (method, path, answer.text)
        document = answer.json() if answer.content else {}
        assert code < 300 or document[FAULTS[code]]["code"] == code
        return document

    @staticmethod
    def _some(things: list[Any], n: int) -> Any:
        """One of them, or for one number in ten, and where there is none, None: an id that nobody knows."""
        return things[n % len(things)] if things and n < 9 else None


def test_any_order_of_requests(tmp_path: Path) -> None:
    """Whatever is asked for in whatever order, each answer is the one that the model of the contract expects."""
    with opened_site(tmp_path) as opened:

        class Here(Account):
            site = opened

        run_state_machine_as_test(Here, settings=settings(max_examples=15, stateful_step_count=30, deadline=None))
