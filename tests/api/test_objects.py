import gzip
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snaphold.api.objects import parse_range
from snaphold.errors import Forbidden, Permanent, Transient, Unavailable
from snaphold.objects import CONTAINER
from tests.api.site import FailingGate, FailingObjects, Site, check_fault, opened_site

NAME = "b1.xbstream.gz"
DATA = gzip.compress(bytes(range(256)) * 40_000, mtime=0)
LENGTH = len(DATA)


@pytest.fixture
def kept(site: Site) -> Site:
    """A site where each account has an object of the same name."""
    site.stores.of("1234").put(NAME, DATA)
    site.stores.of("9999").put(NAME, b"foreign")
    return site


def _read(
    site: Site, name: str = NAME, *, method: str = "GET", account: str = "MossoCloudFS_1234", **headers: str
) -> Any:
    given = {"X-Auth-Token": site.token("demo"), **{key.replace("_", "-"): value for key, value in headers.items()}}
    return site.send(method, f"/v1/{account}/z_CLOUDDB_BACKUPS/{name}", headers=given)


def test_container() -> None:
    """The container has the name that the contract gives it, at the edge and in the stores."""
    assert CONTAINER == "z_CLOUDDB_BACKUPS"


@pytest.mark.parametrize("account", ["MossoCloudFS_1234", "AUTH_1234"])
def test_whole(kept: Site, account: str) -> None:
    """The whole object, in both path forms, with its length."""
    answer = _read(kept, account=account)
    assert (answer.status_code, answer.content) == (200, DATA)
    assert answer.headers["Content-Length"] == str(LENGTH)
    assert answer.headers["Accept-Ranges"] == "bytes"
    head = _read(kept, account=account, method="HEAD")
    assert (head.status_code, head.content, head.headers["Content-Length"]) == (200, b"", str(LENGTH))
    assert head.headers["ETag"] == answer.headers["ETag"]


def test_location(site: Site) -> None:
    """What a COMPLETED backup's `locationRef` names is found there."""
    backup = site.backup(site.instance()["id"])
    site.stores.of("1234").replace(f"{backup['id']}.xbstream.gz", DATA)
    path = backup["locationRef"].removeprefix("http://127.0.0.1:8779")
    assert site.send("GET", path, headers={"X-Auth-Token": site.token("demo")}).content == DATA


@pytest.mark.parametrize(
    ("wanted", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=5-9", 5, 10),
        (f"bytes=10-{10**17}", 10, LENGTH),
        ("bytes=10-", 10, LENGTH),
        ("bytes=-7", LENGTH - 7, LENGTH),
        (f"bytes=-{LENGTH + 5}", 0, LENGTH),
        (f"bytes={LENGTH - 1}-", LENGTH - 1, LENGTH),
    ],
)
def test_range(kept: Site, wanted: str, start: int, end: int) -> None:
    """One range of bytes: 206, just these, and what they are of."""
    answer = _read(kept, Range=wanted)
    assert (answer.status_code, answer.content) == (206, DATA[start:end])
    assert answer.headers["Content-Range"] == f"bytes {start}-{end - 1}/{LENGTH}"
    assert answer.headers["Content-Length"] == str(end - start)
    head = _read(kept, method="HEAD", Range=wanted)
    assert (head.status_code, head.headers["Content-Range"]) == (206, answer.headers["Content-Range"])


@pytest.mark.parametrize("wanted", [f"bytes={LENGTH}-", f"bytes={LENGTH + 9}-{LENGTH + 10}", "bytes=-0"])
def test_range_outside(kept: Site, wanted: str) -> None:
    """A range of which nothing is there: 416, and how much is there."""
    answer = _read(kept, Range=wanted)
    check_fault(answer, 416)
    assert answer.headers["Content-Range"] == f"bytes */{LENGTH}"


@pytest.mark.parametrize("wanted", ["bytes=0-1,5-6", "bytes=5-2", "bytes=-", "bytes=a-b", "lines=0-1", "bytes", ""])
def test_range_not_understood(kept: Site, wanted: str) -> None:
    """Several ranges, and what is none: the whole object, as HTTP allows."""
    answer = _read(kept, Range=wanted)
    assert (answer.status_code, answer.content) == (200, DATA)


def test_if_range(kept: Site) -> None:
    """A range of another object than the one meant is the whole."""
    etag = _read(kept, method="HEAD").headers["ETag"]
    assert _read(kept, Range="bytes=1-2", If_Range=etag).status_code == 206
    assert _read(kept, Range="bytes=1-2", If_Range='"other"').status_code == 200


@pytest.mark.parametrize(
    "name", ["none", "%2e%2e/x", "a/../b", ".", "a//b", "x" * 201, "a%00b", "a b", "snaphold/none"]
)
def test_no_such_object(kept: Site, name: str) -> None:
    """What is not there, and what cannot be: 404."""
    check_fault(_read(kept, name), 404)


def test_nothing_but_the_own_container(kept: Site) -> None:
    """Another account 403, another container 404, another form of account 404, no token 401."""
    for account in ("MossoCloudFS_9999", "AUTH_9999", "AUTH_", "AUTH_1234%2f..%2f9999"):
        assert _read(kept, account=account).status_code in {403, 404}
    check_fault(_read(kept, account="1234"), 404)
    token = {"X-Auth-Token": kept.token("demo")}
    check_fault(kept.send("GET", f"/v1/AUTH_1234/other/{NAME}", headers=token), 404)
    check_fault(kept.send("GET", f"/v1/AUTH_1234/z_CLOUDDB_BACKUPS/{NAME}"), 401)


def test_empty_object(site: Site) -> None:
    """An object without bytes is read as such."""
    site.stores.of("1234").put("empty.json", b"")
    answer = _read(site, "empty.json")
    assert (answer.status_code, answer.content, answer.headers["Content-Length"]) == (200, b"", "0")
    check_fault(_read(site, "empty.json", Range="bytes=0-"), 416)


class HangingObjects:
    """A store whose calls do not return before ``let_go``."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.let_go = threading.Event()

    def size(self, account: str, name: str) -> int:
        """Hang."""
        del account, name
        self.asked.set()
        assert self.let_go.wait(60)
        return 0

    def get(self, account: str, name: str, start: int, length: int | None) -> Iterator[bytes]:
        """Nothing."""
        del account, name, start, length
        return iter(())


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (Transient("x"), 503, "The object store does not answer."),
        (Permanent("x"), 403, "The object store refuses this account."),
    ],
    ids=repr,
)
def test_a_store_that_fails(tmp_path: Path, error: Exception, code: int, message: str) -> None:
    """A store that does not answer is a 503, one that refuses the account a 403."""
    with opened_site(tmp_path, objects=FailingObjects(error)) as site:
        check_fault(_read(site), code, message)


@pytest.mark.parametrize(("error", "code"), [(Unavailable("silent"), 503), (Forbidden("closed"), 403)], ids=repr)
def test_a_store_that_is_closed(tmp_path: Path, error: Exception, code: int) -> None:
    """What its gate says of a store counts for reading as for backups."""
    with opened_site(tmp_path, gate=FailingGate(error)) as site:
        check_fault(_read(site), code)


def test_a_store_that_hangs_holds_up_nobody(tmp_path: Path) -> None:
    """More reads than there are threads wait for a store that hangs: other requests are answered."""
    objects = HangingObjects()
    with opened_site(tmp_path, objects=objects, store_timeout_s=60) as site, ThreadPoolExecutor(45) as pool:
        site.token("demo")
        asked = [pool.submit(_read, site) for _ in range(45)]
        assert objects.asked.wait(30)
        site.ok("GET", "/backups")
        assert not any(each.done() for each in asked)
        objects.let_go.set()
        assert {each.result().status_code for each in asked} == {200}


def test_a_store_that_hangs_is_waited_for_only_so_long(tmp_path: Path) -> None:
    """A read of it is answered within the time that the settings give."""
    objects = HangingObjects()
    with opened_site(tmp_path, objects=objects, store_timeout_s=0.2) as site:
        check_fault(_read(site), 503, "The object store does not answer.")
        objects.let_go.set()


@given(st.text("bytes=-0123456789, ", max_size=20), st.integers(0, 1000))
def test_any_range(text: str, size: int) -> None:
    """Whatever is asked for: the whole, nothing, or a part that is there."""
    found = parse_range(text, size)
    assert found in (None, (0, 0)) or (0 <= found[0] < size and 0 < found[1] <= size - found[0])
