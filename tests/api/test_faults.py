import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from snaphold.errors import Forbidden, OverLimit, Transient, Unavailable
from tests.api.site import FailingGate, Site, check_fault, opened_site


@pytest.mark.parametrize("path", ["/nothing", "/v1.0/1234/nothing", "/v1.0/1234/backups/", "/v2.0/none", "/agent/v1/x"])
def test_unknown_route(site: Site, path: str) -> None:
    """A route that there is not is an `itemNotFound`, with and without a token."""
    check_fault(site.send("GET", path), 404)
    check_fault(site.send("GET", path, headers={"X-Auth-Token": site.token("demo")}), 404)


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/v1.0/1234/backups", "GET, POST"),
        ("POST", "/v1.0/1234/backups/x", "DELETE, GET"),
        ("GET", "/v1.0/1234/backups/x/action", "POST"),
        ("PUT", "/v1.0/1234/instances/x", "DELETE, GET, PATCH"),
        ("DELETE", "/v1.0", "GET"),
        ("PATCH", "/v1/AUTH_1234/c/o", "GET, HEAD"),
        ("POST", "/docs/static/x", "GET, HEAD"),
    ],
)
def test_wrong_method(site: Site, method: str, path: str, allow: str) -> None:
    """A method that the resource has not is a `badMethod`, and Allow lists all that it has."""
    answer = site.send(method, path)
    check_fault(answer, 405)
    assert answer.headers["Allow"] == allow


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{,}",
        b'{"backup": {"name": "n",}}',
        b"{'backup': 1}",
        b'{"backup": NaN}',
        b'{"backup": "\\ud800"}',
        b'{"backup": "\xff"}',
        b"[" * 100_000,
        b'{"a": 1} {"b": 2}',
    ],
)
def test_malformed_body(site: Site, raw: bytes) -> None:
    """What is no strict JSON is refused in one sentence."""
    headers = {"X-Auth-Token": site.token("demo"), "Content-Type": "application/json"}
    answer = site.send("POST", "/v1.0/1234/backups", content=raw, headers=headers)
    check_fault(answer, 400, r"Malformed request body: .+ at line 1 column \d+")


@pytest.mark.parametrize("raw", [b"[]", b"5", b"null", b'"backup"', b"{}", b'{"backup": []}', b'{"backup": null}'])
def test_body_of_another_shape(site: Site, raw: bytes) -> None:
    """JSON that is no object, or lacks the one that it should hold, is a `badRequest` too."""
    headers = {"X-Auth-Token": site.token("demo"), "Content-Type": "application/json"}
    check_fault(site.send("POST", "/v1.0/1234/backups", content=raw, headers=headers), 400)


@pytest.mark.parametrize(
    ("media_type", "code"),
    [
        ("application/xml", 415),
        ("text/plain", 415),
        ("", 415),
        ("application/x-www-form-urlencoded", 415),
        ("application/json; charset=utf-8", 404),
        ("Application/JSON", 404),
        (None, 404),
    ],
)
def test_media_type(site: Site, media_type: str | None, code: int) -> None:
    """A foreign media type is a `badMediaType`; none at all is taken for JSON."""
    headers = {"X-Auth-Token": site.token("demo")}
    if media_type is not None:
        headers["Content-Type"] = media_type
    raw = b'{"backup": {"name": "n", "instance": "x"}}'
    check_fault(site.send("POST", "/v1.0/1234/backups", content=raw, headers=headers), code)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Site]:
    """A site that takes bodies of 1024 bytes at most."""
    with opened_site(tmp_path, max_body_bytes=1024) as site:
        yield site


@pytest.mark.parametrize("chunked", [False, True])
def test_too_large_a_body(small: Site, chunked: bool) -> None:  # noqa: FBT001
    """A body above the limit is an `overLimit`, whether it says its length or not; one at the limit is read."""
    raw = b'{"backup": {"name": "n", "instance": "x"}}'
    for size, code in ((1024, 404), (1025, 413), (1 << 20, 413)):
        padded = raw.ljust(size)
        content = iter([padded[:512], padded[512:]]) if chunked else padded
        headers = {"X-Auth-Token": small.token("demo")}
        answer = small.send("POST", "/v1.0/1234/backups", content=content, headers=headers)
        check_fault(answer, code)
        assert "Retry-After" not in answer.headers


def test_token_before_body(small: Site) -> None:
    """Nobody unknown learns anything of a body: the token is checked first."""
    for raw, headers in ((b"{,}", {}), (b" " * 2000, {}), (b"<a/>", {"Content-Type": "application/xml"})):
        answer = small.send("POST", "/v1.0/1234/backups", content=raw, headers=headers)
        check_fault(answer, 401)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Unavailable("The object store does not answer."), 503),
        (Forbidden("The object store refuses the account."), 403),
        (Transient("secret-detail"), 500),
        (RuntimeError("secret-detail"), 500),
    ],
)
def test_what_the_service_raises(tmp_path: Path, error: Exception, code: int) -> None:
    """A refusal is shown; what nobody expected is an `instanceFault` that tells nothing but the request's id."""
    with opened_site(tmp_path, gate=FailingGate(error)) as site:
        answer = site.call("POST", "/backups", {"backup": {"name": "n", "instance": "x"}})
    check_fault(answer, code)
    assert "secret-detail" not in answer.text
    assert code != 500 or answer.headers["X-Compute-Request-Id"] in answer.text


def test_over_limit_says_when(tmp_path: Path) -> None:
    """413 says when to try again in the header and in the body, where that helps."""
    with opened_site(tmp_path, gate=FailingGate(OverLimit("Too often.", 7))) as site:
        answer = site.call("POST", "/backups", {"backup": {"name": "n", "instance": "x"}})
    assert answer.headers["Retry-After"] == "7"
    assert answer.json() == {"overLimit": {"code": 413, "message": "Too often.", "retryAfter": 7}}


def test_old_suffix(site: Site) -> None:
    """A path may end in `.json`."""
    token = {"X-Auth-Token": site.token("demo")}
    assert site.send("GET", "/v1.0/1234/backups.json", headers=token).json() == {"backups": []}
    check_fault(site.send("GET", "/v1.0/1234/instances/x.json", headers=token), 404, "Instance 'x' cannot be found.")


@pytest.mark.parametrize(
    "path", ["/v1.0/1234/backups/%00", "/v1.0/1234/backups/%ff%fe", "/v1.0/1234/backups/" + "x" * 9000]
)
def test_odd_ids(site: Site, path: str) -> None:
    """An id that can be none is unknown like any other."""
    check_fault(site.send("GET", path, headers={"X-Auth-Token": site.token("demo")}), 404)


def test_odd_host_header(site: Site) -> None:
    """A request's own idea of our name is not used for anything, however odd."""
    address = urlsplit(site.url)
    for host in ("[odd", "evil.example"):
        with socket.create_connection((address.hostname, address.port)) as connection:
            head = f"GET /v1.0/1234/backups HTTP/1.1\r\nHost: {host}\r\nX-Auth-Token: {site.token('demo')}\r\n"
            connection.sendall(f"{head}Connection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 200")
        assert host.encode() not in answer.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("name", ["catalog.db", "identity.db"])
def test_a_database_that_is_exchanged(site: Site, tmp_path: Path, name: str) -> None:
    """503, without a word of where it is, until it is back."""
    site.ok("GET", "/backups")
    (tmp_path / name).rename(tmp_path / "away")
    answer = site.call("GET", "/backups")
    check_fault(answer, 503, "the catalog does not answer: its file was removed or replaced")
    (tmp_path / "away").rename(tmp_path / name)
    site.ok("GET", "/backups")
