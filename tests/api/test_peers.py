import base64
import hashlib
import http.client
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from snaphold.catalog import backups as rows
from snaphold.catalog import copies as copy_rows
from snaphold.errors import Damaged, Forbidden, ObjectMissing, Permanent, Transient, Unavailable, Unprocessable
from snaphold.model import Backup, CopyStatus
from snaphold.peers.region import PeerClient
from snaphold.peers.store import PeerStores
from snaphold.protocol import PeerAnnouncement, PeerQuery, PeerWithdrawal
from snaphold.service.backups import list_backups, show_backup
from snaphold.service.copies import plan_copies, request_copy, retry_copies
from snaphold.service.requests import CopyRequest, PageRequest
from snaphold.service.verification import request_repair
from snaphold.steps import Step, observers
from snaphold.store.base import Containers, ObjectStore
from snaphold.store.local import LocalStores
from snaphold.stream.verification import verify_objects
from snaphold.worker.copying import Copier
from snaphold.worker.deletion import Remover
from snaphold.worker.verification import Verifier
from tests.api.site import USERS, Secrets, Site, check_fault, opened_site, served
from tests.scenarios.served import free_port
from tests.support.manifests import SEGMENT, a_backup_record, put_in_segments
from tests.support.region import ACCOUNT, Region, open_region

ORD, SYD = "secret-of-ord-and-dfw", "secret-of-syd-and-dfw"
COPY = "aaaaaaaa-0000-4000-8000-000000000000"
ORIGINAL = "bbbbbbbb-0000-4000-8000-000000000000"
_LISTING = b'{"objects": [{"name": "%s", "size_bytes": 1, "modified_s": 1}]}'
ALL = PageRequest(limit=100, marker=None)


@dataclass
class Join:
    """DFW behind its real edge, and ORD without one, which speaks to it as a peer; and what others could say."""

    site: Site
    ord: Region
    source: LocalStores
    directory: Path

    def peer(self, secret: str = ORD, url: str | None = None) -> PeerClient:
        """DFW's service, for whoever has this secret."""
        return PeerClient("DFW", url or self.site.url, self._file(secret))

    def store(self, secret: str = ORD, account: str = ACCOUNT, url: str | None = None) -> ObjectStore:
        """DFW's store, for whoever has this secret."""
        return PeerStores("DFW", url or self.site.url, self._file(secret)).of(account)

    def announce(self, secret: str = ORD, **change: Any) -> None:
        """A copy of two segments."""
        self.site.token("demo")
        region = "ORD" if secret == ORD else "SYD"
        message = PeerAnnouncement(id=COPY, account=ACCOUNT, region=region, made_from=ORIGINAL, user="demo", segments=2)
        self.peer(secret).announce(message.model_copy(update=change))

    def keep(self, number: int, parent: Backup | None = None) -> Backup:
        """A COMPLETED backup in ORD, of three segments."""
        record = replace(a_backup_record(number, parent), object_bytes=40)
        backup = put_in_segments(self.source.of(ACCOUNT), record, self.ord.deployment.deployment_id, parent)
        with self.ord.deployment.catalog.writing() as tx:
            assert rows.insert(tx, backup)
        return backup

    def ask(self, backup: Backup, user: str = "demo") -> None:
        """This user of ORD has it copied to DFW, where the user is known too."""
        self.site.token(user)
        request_copy(self.ord.deployment, ACCOUNT, backup.id, CopyRequest(region="DFW", asked_by=user))

    def work(self, backup: Backup, url: str | None = None) -> list[tuple[str, str | None]]:
        """ORD's worker makes the copy, reaching DFW at ``url``; status and reason of each copy."""
        deployment = replace(self.ord.deployment, peers={"DFW": self.peer(url=url)})
        targets = self.targets(url)
        with deployment.catalog.reading() as tx:
            asked = copy_rows.open_of(tx, backup.id)
        for copy_id in asked:
            Copier(deployment, self.source, targets, threading.Event()).copy(copy_id)
        return [(copy.status, copy.reason) for copy in show_backup(deployment, ACCOUNT, backup.id).copies]

    def targets(self, url: str | None = None) -> dict[str, Containers]:
        """DFW's store, as ORD's worker reaches it."""
        return {"DFW": PeerStores("DFW", url or self.site.url, self._file(ORD))}

    def objects(self) -> set[str]:
        """All names in the account's container in DFW."""
        return {info.name for info in self.site.stores.of(ACCOUNT).list("")}

    def _file(self, secret: str) -> Path:
        path = self.directory / hashlib.sha256(secret.encode()).hexdigest()
        path.write_text(secret + "\n")
        return path


@pytest.fixture
def join(tmp_path: Path) -> Iterator[Join]:
    """Two deployments."""
    for name in ("dfw", "ord"):
        (tmp_path / name).mkdir()
    away = open_region(tmp_path / "ord")
    with opened_site(tmp_path / "dfw", known_peers=Secrets({ORD: {"ORD"}, SYD: {"SYD"}})) as site:
        joined = Join(site, away, LocalStores(tmp_path / "ord" / "store"), tmp_path)
        away.deployment = replace(away.deployment, region="ORD", peers={"DFW": joined.peer()})
        yield joined
    away.deployment.catalog.close()


class Killed(BaseException):
    """The process ends here."""


@contextmanager
def killed_at(step: Step) -> Iterator[None]:
    """Whoever copies is ended at this step, which must be reached."""

    def kill(at: Step) -> None:
        if at is step:
            raise Killed

    observers.append(kill)
    try:
        with pytest.raises(Killed):
            yield
    finally:
        observers.remove(kill)


def test_a_chain_is_copied_over_http(join: Join) -> None:
    """The copies are backups of DFW's own, whole by their own manifests, one under the other; nothing else is left."""
    full = join.keep(1)
    increment = join.keep(2, full)
    for backup in (full, increment):
        join.ask(backup)
        assert join.work(backup) == [(CopyStatus.COMPLETED, None)]
    child, parent = list_backups(join.site.region.deployment, ACCOUNT, ALL).backups
    assert (child.parent_id, child.made_from, parent.made_from) == (parent.id, increment.id, full.id)
    for copy in (child, parent):
        verify_objects(join.site.stores.of(ACCOUNT), copy.id, str(copy.manifest_sha256))
    ends = ("json", "index", "xbstream.gz")
    assert join.objects() == {f"{copy.id}.{end}" for copy in (child, parent) for end in ends}


@pytest.mark.parametrize(
    "step", [Step.COPY_ANNOUNCED, Step.COPY_SEGMENTS_WRITTEN, Step.COPY_PUBLISHED, Step.COPY_MANIFEST_WRITTEN]
)
def test_a_copy_over_http_goes_on_where_it_was_cut_short(join: Join, step: Step) -> None:
    """Ended at any step, the next worker ends it: one copy, whole, and before that none is listed."""
    backup = join.keep(1)
    join.ask(backup)
    with killed_at(step):
        join.work(backup)
    assert list_backups(join.site.region.deployment, ACCOUNT, ALL).backups == []
    assert join.work(backup) == [(CopyStatus.COMPLETED, None)]
    (copy,) = list_backups(join.site.region.deployment, ACCOUNT, ALL).backups
    verify_objects(join.site.stores.of(ACCOUNT), copy.id, str(copy.manifest_sha256))
    assert join.objects() == {f"{copy.id}.{end}" for end in ("json", "index", "xbstream.gz")}


def test_segments_that_are_there_are_not_sent_again(join: Join) -> None:
    """The other region says the hashes of what it has; only what differs comes once more."""
    backup = join.keep(1)
    join.ask(backup)
    with killed_at(Step.COPY_SEGMENTS_WRITTEN):
        join.work(backup)
    (segments,) = (name for name in join.objects() if name.endswith("/segments"))
    path = join.directory / "dfw" / "store" / ACCOUNT / "z_CLOUDDB_BACKUPS" / segments
    kept = path.read_bytes()
    path.write_bytes(b"?" * SEGMENT + kept[SEGMENT:])
    source = join.directory / "ord" / "store" / ACCOUNT / "z_CLOUDDB_BACKUPS" / str(backup.object_name)
    source.write_bytes(kept[:SEGMENT] + b"?" * (len(kept) - SEGMENT))  # none of these is read once more
    assert join.work(backup) == [(CopyStatus.COMPLETED, None)]
    (copy,) = list_backups(join.site.region.deployment, ACCOUNT, ALL).backups
    verify_objects(join.site.stores.of(ACCOUNT), copy.id, str(copy.manifest_sha256))


def test_a_damaged_backup_is_mended_over_http(join: Join) -> None:
    """Of the copy in the other deployment what is damaged here is read, and nothing else can be."""
    backup = join.keep(1)
    join.ask(backup)
    join.work(backup)
    path = join.directory / "ord" / "store" / ACCOUNT / "z_CLOUDDB_BACKUPS" / str(backup.object_name)
    whole = path.read_bytes()
    path.write_bytes(whole[:SEGMENT] + b"?" * SEGMENT + whole[2 * SEGMENT :])
    request_repair(join.ord.deployment, ACCOUNT, backup.id)
    Verifier(join.ord.deployment, join.source, threading.Event(), join.targets()).verify(backup.id)
    assert path.read_bytes() == whole
    assert show_backup(join.ord.deployment, ACCOUNT, backup.id).proof_status == "passed"


def test_a_peer_that_is_down(join: Join) -> None:
    """Asked for while it is down: 503. Accepted before: it waits, and goes on when the peer is back."""
    backup = join.keep(1)
    nowhere = f"http://127.0.0.1:{free_port()}"
    down = replace(join.ord.deployment, peers={"DFW": join.peer(url=nowhere)})
    with pytest.raises(Unavailable, match="Region DFW does not answer"):
        request_copy(down, ACCOUNT, backup.id, CopyRequest(region="DFW", asked_by="demo"))
    join.ask(backup)
    assert join.work(backup, nowhere) == [(CopyStatus.COPYING, "Region DFW does not answer.")]
    join.ord.clock.advance(6)
    retry_copies(join.ord.deployment)
    assert join.ord.enqueued()[-1][0] == "copy_backup"
    assert join.work(backup) == [(CopyStatus.COMPLETED, None)]


def test_a_wrong_secret(join: Join) -> None:
    """Whatever is asked with another secret, or none, is 401 and leaves nothing."""
    container = f"accounts/{ACCOUNT}"
    asked = [
        *(("POST", path) for path in ("copies", "announce", "record", "withdraw", f"{container}/publications/a")),
        *((method, f"{container}/objects/a") for method in ("HEAD", "GET", "PUT", "DELETE")),
        ("GET", f"{container}/objects?prefix="),
        ("GET", f"{container}/digests/a"),
        ("PUT", f"{container}/segments/0?prefix=a/"),
        ("GET", f"{container}/segments/0?prefix=a/&size_bytes=1"),
    ]
    with httpx.Client(base_url=f"{join.site.url}/peer/v1/", trust_env=False) as client:
        for secret in ("", "wrong", ORD[:-1], ORD + "x", "é"):
            headers = [(b"Authorization", f"Bearer {secret}".encode())] if secret else []
            for method, path in asked:
                answer = client.request(method, path, headers=headers, content=b"{}")
                assert answer.status_code == 401, (method, path, secret)
    assert join.objects() == set()


def test_only_what_was_announced_may_be_written(join: Join) -> None:
    """A peer writes the objects of its own copy: no other name, account, or number of segments, and no other peer."""
    prefix = f"snaphold/{join.site.region.deployment.deployment_id}/{COPY}/1/"
    with pytest.raises(Permanent, match="no copy that was announced"):
        join.store().put_segment(prefix, 0, [b"x" * SEGMENT], segment_size=SEGMENT)
    join.announce()
    join.store().put_segment(prefix, 0, [b"x" * SEGMENT], segment_size=SEGMENT)
    refused: list[Callable[[], object]] = [
        lambda: join.store().put_segment(prefix, 2, [b"x"], segment_size=SEGMENT),
        lambda: join.store().put_segment(f"snaphold/another/{COPY}/1/", 0, [b"x"], segment_size=SEGMENT),
        lambda: join.store().put_segment(prefix.replace(COPY, ORIGINAL), 0, [b"x"], segment_size=SEGMENT),
        lambda: join.store().put(f"{ORIGINAL}.json", b"x"),
        lambda: join.store().put(COPY, b"x"),
        lambda: join.store().put(f"{COPY}x.json", b"x"),
        lambda: join.store().replace("receipt.json", b"x"),
        lambda: join.store().delete(f"{ORIGINAL}.json"),
        lambda: join.store().publish(f"{ORIGINAL}.gz", prefix, 1, size_bytes=SEGMENT, segment_size=SEGMENT),
        lambda: list(join.store().list("")),
        lambda: list(join.store().list(f"snaphold/{join.site.region.deployment.deployment_id}/")),
        lambda: list(join.store().get(f"{ORIGINAL}.json")),
        lambda: join.store(account="9999").put(f"{COPY}.json", b"x"),
        lambda: join.store(SYD).put(f"{COPY}.json", b"x"),
        lambda: join.store(SYD).sha256(f"{COPY}.json"),
    ]
    for attempt in refused:
        with pytest.raises(Permanent, match=r"refuses: .*(announced|of yours)"):
            attempt()
    assert join.objects() == {f"{prefix}segments", f"{prefix}sizes"}


def test_nothing_of_a_copy_may_be_written_once_it_has_ended(join: Join) -> None:
    """Recorded or withdrawn, its objects are DFW's own; they may still be read, but by nobody else."""
    backup = join.keep(1)
    join.ask(backup)
    join.work(backup)
    (copy,) = list_backups(join.site.region.deployment, ACCOUNT, ALL).backups
    with pytest.raises(Permanent, match="no copy that was announced"):
        join.store().delete(f"{copy.id}.json")
    with pytest.raises(Permanent, match="no copy that was announced"):
        join.store().replace(f"{copy.id}.json", b"x")
    document = b"".join(join.store().get(f"{copy.id}.json"))
    assert hashlib.sha256(document).hexdigest() == copy.manifest_sha256
    with pytest.raises(Permanent, match="no copy of yours"):
        next(iter(join.store(SYD).get(f"{copy.id}.json")))
    join.announce()
    join.store().put(f"{COPY}.json", b"x")
    said = join.peer().withdraw(PeerWithdrawal(id=COPY, account=ACCOUNT, region="ORD"))
    assert not said.recorded
    with pytest.raises(Permanent, match="no copy that was announced"):
        join.store().put(f"{COPY}.index", b"x")
    with pytest.raises(Unprocessable, match="was given up"):
        join.announce()
    deployment = join.site.region.deployment
    Remover(deployment.catalog, join.site.stores, deployment.deployment_id).sweep_incoming_copy(COPY)
    assert join.objects() == {f"{copy.id}.{end}" for end in ("json", "index", "xbstream.gz")}


def test_a_withdrawal_of_what_is_recorded(join: Join) -> None:
    """It is told that the copy is there, and the copy stays."""
    backup = join.keep(1)
    join.ask(backup)
    join.work(backup)
    (copy,) = list_backups(join.site.region.deployment, ACCOUNT, ALL).backups
    assert join.peer().withdraw(PeerWithdrawal(id=copy.id, account=ACCOUNT, region="ORD")).recorded
    assert f"{copy.id}.json" in join.objects()


def test_a_peer_speaks_for_itself_only(join: Join) -> None:
    """The secret of one region does not let it speak as another one."""
    for region in ("SYD", "IAD", "DFW"):
        with pytest.raises(Forbidden, match="is not that of region"):
            join.announce(region=region)
        with pytest.raises(Forbidden, match="is not that of region"):
            join.peer().copies(PeerQuery(account=ACCOUNT, region=region, wanted={}))


def test_a_caller_needs_rights_in_both_regions(join: Join) -> None:
    """There must be a user of this name in the same account whose roles there allow changes; else 403, nothing kept."""
    backup = join.keep(1)
    for user in ("observer", "other", "nobody", None):
        if user in USERS:
            join.site.token(user)
        request = CopyRequest(region="DFW", asked_by=user or "nobody")
        with pytest.raises(Forbidden, match=f"Region DFW refuses: User {user or 'nobody'} may not"):
            request_copy(join.ord.deployment, ACCOUNT, backup.id, request)
        with pytest.raises(Forbidden):
            join.announce(user=user)
    assert join.work(backup) == []
    for number, user in enumerate(("creator", "admin"), start=2):
        another = join.keep(number)
        join.ask(another, user)
        assert join.work(another) == [(CopyStatus.COMPLETED, None)]


def test_an_observer_asks_for_no_copy(join: Join) -> None:
    """Whoever may only read here is refused before anybody is asked."""
    answer = join.site.call("POST", f"/backups/{COPY}/action", {"copy-backup": {}}, user="observer")
    assert answer.status_code == 403


def test_bytes_are_kept_only_when_their_hash_is_right(join: Join) -> None:
    """A body that is not what its hash says (which may come again), tells none, or is too large leaves nothing."""
    join.announce()
    url = f"{join.site.url}/peer/v1/accounts/{ACCOUNT}/objects/{COPY}.json"
    wrong = base64.b64encode(hashlib.sha256(b"another").digest()).decode()
    for headers, code in [
        ({"Content-Digest": f"sha-256=:{wrong}:"}, 503),
        ({}, 400),
        ({"Content-Digest": "md5=x"}, 400),
    ]:
        headers["Authorization"] = f"Bearer {ORD}"
        assert httpx.put(url, content=b"the bytes", headers=headers, trust_env=False).status_code == code
    connection = http.client.HTTPConnection(join.site.url.removeprefix("http://"))
    connection.putrequest("PUT", url.removeprefix(join.site.url))
    for name, value in {"Authorization": f"Bearer {ORD}", "Content-Length": str((64 << 20) + 1)}.items():
        connection.putheader(name, value)
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()
    assert join.objects() == set()


def test_what_a_peer_says_of_missing_objects(join: Join) -> None:
    """What is not there is told so; a peer that is silent may be asked again."""
    join.announce()
    with pytest.raises(ObjectMissing):
        join.store().size(f"{COPY}.json")
    with pytest.raises(Transient, match="Region DFW does not answer"):
        join.store(url=f"http://127.0.0.1:{free_port()}").size(f"{COPY}.json")


def test_the_original_may_be_read_by_the_region_that_it_was_copied_to(join: Join) -> None:
    """Two regions share both backups of a pair, so that either can repair its own from the other's."""
    deployment = join.site.region.deployment
    record = replace(a_backup_record(1), object_bytes=40)
    backup = put_in_segments(join.site.stores.of(ACCOUNT), record, deployment.deployment_id, None)
    with deployment.catalog.writing() as tx:
        assert rows.insert(tx, backup)
    with pytest.raises(Permanent, match="no copy of yours"):
        join.store().sha256(f"{backup.id}.json")
    with deployment.catalog.writing() as tx:
        plan_copies(tx, backup, ["ORD"], asked_by="demo", with_ancestors=False)
        (copy_id,) = copy_rows.open_of(tx, backup.id)
        copy_rows.change(tx, copy_id, status=CopyStatus.COMPLETED)
    assert join.store().sha256(f"{backup.id}.json") == backup.manifest_sha256


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"id": "../1"}, 400),
        ({"created": "yesterday"}, 400),
        ({"size_bytes": 1 << 63}, 400),
        ({"source_type": "<b>"}, 400),
        ({"object_name": "other.json"}, 400),
        ({"name": "x" * 65}, 400),
        ({"datastore": "oracle"}, 400),
        ({"manifest_sha256": "1" * 64}, 422),
        ({"object_bytes": 1}, 422),
        ({"object_name": f"{ORIGINAL}.xbstream.gz"}, 422),
    ],
)
def test_a_record_that_is_not_so(join: Join, change: dict[str, Any], code: int) -> None:
    """What a peer says of a copy has its form, and its objects are looked for: nothing is recorded on its word."""
    join.announce()
    join.store().put(f"{COPY}.json", b"{}")
    record = {
        "id": COPY,
        "account": ACCOUNT,
        "name": "n",
        "description": None,
        "source_type": "instance",
        "source_id": ORIGINAL,
        "instance_id": None,
        "parent_id": None,
        "datastore": "mariadb",
        "backup_version": "10.11",
        "flavor_ram_mb": 512,
        "volume_gb": 1,
        "is_automated": False,
        "made_from": ORIGINAL,
        "made_from_region": "ORD",
        "size_bytes": 1,
        "object_bytes": 0,
        "object_name": f"{COPY}.xbstream.gz",
        "manifest_sha256": hashlib.sha256(b"{}").hexdigest(),
        "incarnation": "i",
        "checkpoint_lsn": 1,
        "to_lsn": 2,
        "created": "2026-01-02T03:04:05.000006Z",
        "updated": "2026-01-02T03:04:05Z",
    }
    headers = {"Authorization": f"Bearer {ORD}"}
    answer = join.site.send("POST", "/peer/v1/record", json=record | change, headers=headers)
    check_fault(answer, code)
    assert list_backups(join.site.region.deployment, ACCOUNT, ALL).backups == []


class Liar:
    """A peer that answers every request with the same bytes."""

    def __init__(self, status: int, content: bytes, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        self._status = status
        self._content = content
        self._headers = headers

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One answer."""
        del scope, receive
        await send({"type": "http.response.start", "status": self._status, "headers": self._headers})
        await send({"type": "http.response.body", "body": self._content})


QUESTION = PeerQuery(account=ACCOUNT, region="ORD", wanted={ORIGINAL: None})


@pytest.mark.parametrize(
    "content",
    [
        b"[",
        b"[" * 100_000,
        b'{"deployment": "../..", "copies": {}}',
        b'{"deployment": "d", "copies": {"x/../y": {"id": "i", "manifest_sha256": "%064d"}}}' % 0,
        b'{"deployment": "d", "copies": {}, "full": "%s"}' % (b"x" * (1 << 20)),
    ],
    ids=["no JSON", "deep", "deployment", "ids", "too long"],
)
def test_a_peers_answer_that_makes_no_sense(tmp_path: Path, content: bytes) -> None:
    """It is the peer that does not answer then: 503, whatever it sent, and however much."""
    secret = tmp_path / "secret"
    secret.write_text(ORD)
    with served(Liar(200, content)) as url, pytest.raises(Unavailable):
        PeerClient("DFW", url, secret).copies(QUESTION)


def test_a_peers_refusal_is_a_line_of_text(tmp_path: Path) -> None:
    """What a peer says in a refusal is shown to people: one line, without control characters, with an end."""
    secret = tmp_path / "secret"
    secret.write_text(ORD)
    fault = {"forbidden": {"code": 403, "message": "no\n\x1b[31m" + "x" * 10_000}}
    with served(Liar(403, json.dumps(fault).encode())) as url, pytest.raises(Forbidden) as refused:
        PeerClient("DFW", url, secret).copies(QUESTION)
    assert str(refused.value) == "Region DFW refuses: no [31m" + "x" * 493


@pytest.mark.parametrize(
    ("liar", "ask", "error"),
    [
        (Liar(200, b"12345"), lambda store: b"".join(store.get("1.json", 0, 4)), Damaged),
        (Liar(200, b"", [(b"content-length", b"-1")]), lambda store: store.size("1.json"), Transient),
        (Liar(200, b""), lambda store: store.size("1.json"), Transient),
        (Liar(200, b'{"sha256": "short"}'), lambda store: store.sha256("1.json"), Transient),
        (Liar(200, b'{"sha256": "%s"}' % (b"0" * 100_000)), lambda store: store.sha256("1.json"), Transient),
        (Liar(200, _LISTING % b"1./../x"), lambda store: list(store.list("1.")), Transient),
        (Liar(200, _LISTING % b"2.json"), lambda store: list(store.list("1.")), Transient),
    ],
)
def test_a_peers_store_that_makes_no_sense(
    tmp_path: Path, liar: Liar, ask: Callable[[ObjectStore], object], error: type[Exception]
) -> None:
    """More bytes than were asked for, and names, lengths and hashes that are none, are not taken."""
    secret = tmp_path / "secret"
    secret.write_text(ORD)
    with served(liar) as url, pytest.raises(error):
        ask(PeerStores("DFW", url, secret).of(ACCOUNT))
