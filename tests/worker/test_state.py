import gzip
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from snaphold.catalog import backups, hosts, instances, schedules, schema
from snaphold.catalog.database import Catalog, open_catalog
from snaphold.catalog.identity_db import IdentityDatabase, open_identity_database
from snaphold.errors import Damaged, Permanent, SetupError
from snaphold.identity.embedded import EmbeddedIdentity
from snaphold.model import SERVICE_ACCOUNT, Backup, BackupStatus, Instance, InstanceStatus
from snaphold.protocol import Heartbeat, InstanceState
from snaphold.service.backups import request_backup, show_backup
from snaphold.service.host_registry import authenticate_host
from snaphold.service.instances import create_instance
from snaphold.service.sessions import heartbeat
from snaphold.steps import Step, observers
from snaphold.worker.rebuild import rebuild
from snaphold.worker.state_backup import LOST, Saver, State, restore_state, saved_states, stored_state
from tests.fakes.memory_store import Fault, MemoryStores
from tests.support.manifests import a_backup_record, put_backup
from tests.support.region import ACCOUNT, Region, a_backup, an_instance, open_region

DAY_S = 86_400
KEPT = Path(__file__).parent / "kept"  # as they were written, but decompressed; never to be changed


@dataclass
class Site:
    """A region, its accounts, its store, and what saves its state."""

    region: Region
    identity: IdentityDatabase
    stores: MemoryStores
    saver: Saver

    def names(self) -> list[str]:
        """What is saved, the oldest first."""
        return saved_states(self.stores.of(SERVICE_ACCOUNT), self.saver.deployment_id)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A region with one host; its state is saved each day, and three of these are kept."""
    region, stores = open_region(tmp_path), MemoryStores()
    with (
        closing(region.deployment.catalog),
        closing(open_identity_database(tmp_path / "identity.db", region.clock)) as identity,
    ):
        saver = Saver(
            catalog=region.deployment.catalog,
            identity=identity,
            stores=stores,
            region="DFW",
            deployment_id=region.deployment.deployment_id,
            keep=3,
            interval_s=DAY_S,
        )
        yield Site(region=region, identity=identity, stores=stores, saver=saver)


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[tuple[Catalog, IdentityDatabase]]:
    """The databases of an empty state directory."""
    (tmp_path / "fresh").mkdir()
    with (
        closing(open_catalog(tmp_path / "fresh" / "catalog.db")) as catalog,
        closing(open_identity_database(tmp_path / "fresh" / "identity.db")) as identity,
    ):
        yield catalog, identity


def latest(site: Site) -> State:
    """What was saved last."""
    return stored_state(site.stores, "latest", None)


def instance_of(catalog: Catalog, instance_id: str) -> Instance | None:
    """An instance's record."""
    with catalog.reading() as tx:
        return instances.get(tx, instance_id)


def test_what_no_manifest_holds_comes_back(site: Site, fresh: tuple[Catalog, IdentityDatabase]) -> None:
    """Users log in with their old secrets, hosts with their old tokens; failed backups say why; instances are ERROR."""
    login = EmbeddedIdentity(site.identity, 3600)
    api_key = login.add_account(ACCOUNT, "demo", "secret", ["dbaas:admin"])["api_key"]
    instance = site.region.active_instance()
    failed = request_backup(site.region.deployment, ACCOUNT, a_backup(instance.id))
    task = site.region.claim()
    assert task is not None
    site.region.report(task, ok=False)
    failed = show_backup(site.region.deployment, ACCOUNT, failed.id)
    completed = put_backup(site.stores.of(ACCOUNT), a_backup_record(1), site.region.deployment.deployment_id)
    site.saver.save()

    catalog, identity = fresh
    restore_state(catalog, identity, latest(site))
    rebuild(catalog, site.stores, latest(site).deployment)
    again = EmbeddedIdentity(identity, 3600)
    assert again.authenticate_password("demo", "secret", ACCOUNT).caller.roles == {"dbaas:admin"}
    assert again.authenticate_api_key("demo", api_key, ACCOUNT).caller.account == ACCOUNT
    after = replace(site.region.deployment, catalog=catalog)
    assert authenticate_host(after, site.region.token) == site.region.host_id
    before = instance_of(site.saver.catalog, instance.id)
    assert before is not None
    expected = replace(before, status=InstanceStatus.ERROR, running=False, reason=LOST)
    assert instance_of(catalog, instance.id) == expected
    assert show_backup(after, ACCOUNT, failed.id) == failed
    assert show_backup(after, ACCOUNT, completed.id) == completed
    with catalog.reading() as tx:
        assert hosts.sweep_held_since(tx) is not None


def test_every_table_is_saved_or_passing(site: Site) -> None:
    """Whatever table a later release adds is saved too, unless it says that its rows are of the moment."""
    site.saver.save()
    kept = set(latest(site).catalog)
    assert kept | {"tasks", "questions", "calls"} == set(schema.metadata.tables)
    assert all(schema.metadata.tables[name].primary_key for name in kept), "rows come back by their key"


def test_a_server_that_outlived_the_loss(site: Site, fresh: tuple[Catalog, IdentityDatabase]) -> None:
    """An instance on a host of its own is ACTIVE again as soon as its host says that it runs; nobody deletes it."""
    instance = site.region.active_instance()
    site.saver.save()
    catalog, identity = fresh
    restore_state(catalog, identity, latest(site))
    site.region.deployment = replace(site.region.deployment, catalog=catalog)
    site.region.hello()
    states = [InstanceState(id=instance.id, running=True)]
    message = Heartbeat(session=site.region.session, instances=states)
    desired = heartbeat(site.region.deployment, site.region.host_id, message)
    assert desired.instances == {instance.id: "running"}
    shown = instance_of(catalog, instance.id)
    assert shown is not None
    assert (shown.status, shown.reason) == (InstanceStatus.ACTIVE, None)


def test_an_instance_that_was_finished_after_the_save(site: Site, fresh: tuple[Catalog, IdentityDatabase]) -> None:
    """One that was being built when the state was saved may hold data by now: its host is not told to remove it."""
    instance = create_instance(site.region.deployment, ACCOUNT, an_instance())
    site.saver.save()
    catalog, identity = fresh
    restore_state(catalog, identity, latest(site))
    assert instance_of(catalog, instance.id) is None
    site.region.deployment = replace(site.region.deployment, catalog=catalog)
    site.region.hello()
    states = [InstanceState(id=instance.id, running=True)]
    message = Heartbeat(session=site.region.session, instances=states)
    assert heartbeat(site.region.deployment, site.region.host_id, message).instances == {}


def test_no_secret_is_saved_in_clear(site: Site) -> None:
    """A saved state holds hashes, as the databases do; sessions are not in it."""
    login = EmbeddedIdentity(site.identity, 3600)
    api_key = login.add_account(ACCOUNT, "demo", "canary-password", [])["api_key"]
    token = login.authenticate_password("demo", "canary-password", None).token
    site.saver.save()
    (document,) = site.stores.of(SERVICE_ACCOUNT).objects.values()
    text = gzip.decompress(document).decode()
    assert "demo" in text
    for secret in ("canary-password", api_key, token, site.region.token):
        assert secret not in text
    assert "tokens" not in latest(site).identity


def test_old_states_go_and_new_ones_come_when_due(site: Site) -> None:
    """The worker saves when the newest one is a day old, also after a restart; three are kept."""
    for _ in range(10):
        site.saver.save_when_due()
        site.region.clock.advance(DAY_S / 2)
    assert len(site.names()) == 3
    assert site.saver.save() == site.names()[-1]
    assert len(site.names()) == 3
    before = site.names()
    replace(site.saver, interval_s=0).save_when_due()
    site.saver.save_when_due()
    assert site.names() == before


def test_states_of_other_deployments_stay(site: Site) -> None:
    """Of two services that share a store each removes its own states only, and whose is meant must be said."""
    other = replace(site.saver, deployment_id="another-deployment")
    theirs = other.save()
    for _ in range(5):
        site.saver.save()
    assert theirs in site.stores.of(SERVICE_ACCOUNT).objects
    with pytest.raises(SetupError, match="another-deployment"):
        stored_state(site.stores, "latest", None)
    assert stored_state(site.stores, "latest", "another-deployment").deployment == "another-deployment"


def test_a_state_is_read_from_where_it_is_said(site: Site, tmp_path: Path) -> None:
    """The newest one, one by its name, or a file; none is a clear line."""
    with pytest.raises(SetupError, match="no saved state"):
        stored_state(site.stores, "latest", None)
    first = site.saver.save()
    EmbeddedIdentity(site.identity, 3600).add_account(ACCOUNT, "demo", None, [])
    second = site.saver.save()
    assert latest(site) == stored_state(site.stores, second, None)
    assert stored_state(site.stores, first, None).identity["users"] == []
    path = tmp_path / "copied"
    path.write_bytes(site.stores.of(SERVICE_ACCOUNT).objects[second])
    assert stored_state(site.stores, str(path), None) == latest(site)
    with pytest.raises(SetupError, match="no saved state"):
        stored_state(site.stores, "state/x/y", None)


def test_a_damaged_state_is_refused(site: Site, tmp_path: Path) -> None:
    """Bytes that are not those that were saved bring nothing back."""
    name = site.saver.save()
    objects = site.stores.of(SERVICE_ACCOUNT).objects
    objects[name] = objects[name][:-9] + b"123456789"
    with pytest.raises(Damaged, match="not what was saved"):
        latest(site)
    copied = tmp_path / "copied"
    for at in range(10, len(objects[name]) - 9, 7):
        copied.write_bytes(objects[name][:at] + bytes([objects[name][at] ^ 0xFF]) + objects[name][at + 1 :])
        with pytest.raises(Damaged, match="cannot be understood"):
            stored_state(site.stores, str(copied), None)


def test_a_state_of_an_earlier_schema(site: Site, fresh: tuple[Catalog, IdentityDatabase]) -> None:
    """Columns and tables that have gone are dropped, new columns take their defaults."""
    instance = site.region.active_instance()
    site.saver.save()
    state = latest(site).model_dump()
    for row in state["catalog"]["instances"]:
        row["gone"] = 1
        del row["restored_from"]
    state["catalog"]["gone"] = [{"id": 1}]
    restore_state(*fresh, State.model_validate(state))
    assert instance_of(fresh[0], instance.id) is not None
    for row in state["catalog"]["hosts"]:
        del row["token_sha256"], row["id"]
        row |= {"id": "x", "name": "another"}
    with pytest.raises(SetupError, match="hosts does not fit"):
        restore_state(*fresh, State.model_validate(state))


def test_a_state_of_version_1(tmp_path: Path, fresh: tuple[Catalog, IdentityDatabase]) -> None:
    """What the first release saved comes back with every later one: logins, hosts, and the record's own rows."""
    path = tmp_path / "saved"
    path.write_bytes(gzip.compress((KEPT / "state-1.json").read_bytes()))
    state = stored_state(MemoryStores(), str(path), None)
    assert all(state.catalog[table] for table in ("deployment", "hosts", "instances", "backups", "schedules", "copies"))
    catalog, identity = fresh
    restore_state(catalog, identity, state)
    login = EmbeddedIdentity(identity, 3600)
    assert login.authenticate_password("demo", "secret", ACCOUNT).caller.roles == {"dbaas:creator"}
    assert login.authenticate_api_key("keyed", "00112233445566778899aabbccddeeff", None).caller.account == ACCOUNT
    (instance,) = state.catalog["instances"]
    (failed,) = state.catalog["backups"]
    (schedule,) = state.catalog["schedules"]
    with catalog.reading() as tx:
        assert hosts.deployment_id(tx, state.region) == state.deployment
        shown, backup = instances.get(tx, instance["id"]), backups.get(tx, failed["id"])
        planned = schedules.find(tx, ACCOUNT, schedule["id"])
    assert shown is not None
    assert (shown.name, shown.status, shown.volume_gb) == ("db", InstanceStatus.ERROR, 2)
    assert backup is not None
    assert (backup.name, backup.status, backup.reason) == ("b", BackupStatus.FAILED, "it was told to fail")
    assert planned is not None
    assert (planned.day_of_week, planned.hour, planned.copy_to) == (0, 3, ["IAD"])


def test_a_state_of_a_later_release(site: Site, tmp_path: Path) -> None:
    """A format that this release does not know is refused as a whole."""
    site.saver.save()
    state = latest(site).model_dump() | {"version": 2}
    path = tmp_path / "later"
    path.write_bytes(gzip.compress(json.dumps(state).encode()))
    with pytest.raises(Damaged, match="cannot be understood"):
        stored_state(site.stores, str(path), None)


def test_a_service_that_was_started_before(site: Site, tmp_path: Path) -> None:
    """Started on the empty directory, with an id and a host of its own, it goes on as the old one."""
    site.saver.save()
    (tmp_path / "started").mkdir()
    started = open_region(tmp_path / "started")
    with closing(started.deployment.catalog) as catalog:
        restore_state(catalog, site.identity, latest(site))
        with catalog.reading() as tx:
            assert hosts.deployment_id(tx, "DFW") == site.saver.deployment_id
        assert authenticate_host(started.deployment, started.token) == site.region.host_id


def test_a_service_that_is_in_use(site: Site, tmp_path: Path) -> None:
    """Nothing is restored over another deployment's instances or backups."""
    site.saver.save()
    (tmp_path / "used").mkdir()
    used = open_region(tmp_path / "used")
    with closing(used.deployment.catalog) as catalog:
        instance = used.active_instance()
        with pytest.raises(SetupError, match="instances of its own"):
            restore_state(catalog, site.identity, latest(site))
        used.completed_backup(instance)
        with pytest.raises(SetupError, match="backups of its own"):
            restore_state(catalog, site.identity, latest(site))
        with catalog.reading() as tx:
            assert hosts.deployment_id(tx, "DFW") == used.deployment.deployment_id


def test_a_state_after_a_rebuild(site: Site, fresh: tuple[Catalog, IdentityDatabase]) -> None:
    """Whoever rebuilt first and restores the state then has the instances' own records, not what backups remember."""
    instance = site.region.active_instance()
    backup = replace(a_backup_record(1), instance_id=instance.id, source_id=instance.id)
    put_backup(site.stores.of(ACCOUNT), backup, site.saver.deployment_id)
    site.saver.save()
    catalog, identity = fresh
    restore_state(catalog, identity, State.model_validate(latest(site).model_dump() | {"catalog": {}}))
    rebuild(catalog, site.stores, site.saver.deployment_id)
    restore_state(catalog, identity, latest(site))
    shown = instance_of(catalog, instance.id)
    assert shown is not None
    assert (shown.status, shown.name, shown.deleted_us) == (InstanceStatus.ERROR, instance.name, None)


class Killed(BaseException):
    """The end of the process, as far as its databases and stores see it."""


def killed_at(step: Step, work: Callable[[], object]) -> None:
    """Do the work until it reaches the step."""

    def kill(here: Step) -> None:
        if here is step:
            raise Killed

    observers.append(kill)
    try:
        with pytest.raises(Killed):
            work()
    finally:
        observers.remove(kill)


@pytest.mark.parametrize("step", [Step.STATE_READ, Step.STATE_SAVED, Step.STATE_PRUNED])
def test_a_save_that_is_cut_short(site: Site, step: Step) -> None:
    """Ended at any step, then run again: three whole states are there, and no other object."""
    for _ in range(3):
        site.saver.save()
    killed_at(step, site.saver.save)
    site.saver.save()
    assert sorted(site.stores.of(SERVICE_ACCOUNT).objects) == site.names()
    assert len(site.names()) == 3
    for name in site.names():
        stored_state(site.stores, name, None)


@pytest.mark.parametrize("step", [Step.STATE_ACCOUNTS_RESTORED, Step.STATE_RESTORED])
def test_a_restore_that_is_cut_short(site: Site, fresh: tuple[Catalog, IdentityDatabase], step: Step) -> None:
    """Ended at any step, then run again: what one undisturbed run gives."""
    EmbeddedIdentity(site.identity, 3600).add_account(ACCOUNT, "demo", None, [])
    instance = site.region.active_instance()
    site.saver.save()
    killed_at(step, lambda: restore_state(*fresh, latest(site)))
    for _ in range(2):
        restore_state(*fresh, latest(site))
    assert fresh[1].find_user("demo") == site.identity.find_user("demo")
    shown = instance_of(fresh[0], instance.id)
    assert shown is not None
    assert shown.status is InstanceStatus.ERROR


def test_a_store_that_refuses(site: Site) -> None:
    """The states that are there stay when a new one cannot be put."""
    kept = site.saver.save()
    store = site.stores.of(SERVICE_ACCOUNT)
    store.faults.append(Fault(method="put", error=Permanent("the store refuses"), first=2, last=2))
    with pytest.raises(Permanent):
        site.saver.save()
    assert site.names() == [kept]


def test_deletes_that_were_asked_for_are_not_forgotten(site: Site, fresh: tuple[Catalog, IdentityDatabase]) -> None:
    """A backup whose delete was under way is still being deleted; one that was gone stays unknown."""

    def recorded(number: int, **facts: object) -> Backup:
        return replace(a_backup_record(number), manifest_sha256="0" * 64, **facts)  # type: ignore[arg-type]

    asked, refused = recorded(1, deleting=True), recorded(2, status=BackupStatus.DELETE_FAILED, reason="refused")
    with site.region.deployment.catalog.writing() as tx:
        for backup in (asked, refused, recorded(3, deleted_us=1), recorded(4)):
            assert backups.insert(tx, backup)
    site.saver.save()
    restore_state(*fresh, latest(site))
    with fresh[0].reading() as tx:
        ids = tx.connection.execute(sa.text("SELECT id FROM backups ORDER BY id")).scalars()
        assert list(ids) == [asked.id, refused.id]
