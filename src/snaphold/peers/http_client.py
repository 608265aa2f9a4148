"""An HTTP client of another region's ``/peer/v1``."""

import json
import ssl
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

_CONNECT_S: Final = 5.0
_READ_S: Final = 60.0  # for an answer that is read whole
_MAX_REFUSAL: Final = 500  # characters


class Secret(httpx.Auth):
    """Authenticates by the secret in a file, which is read before each request: a new one needs no restart."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Add the secret to a request. Raises ``OSError``, ``UnicodeDecodeError``."""
        request.headers["Authorization"] = f"Bearer {self._file.read_text('ascii').strip()}"
        yield request


def open_http_client(url: str, secret_file: Path, timeout_s: float) -> httpx.Client:
    """A client of the region at ``url``, which threads may share. It trusts what this machine trusts."""
    # Loading a machine's certificates is slow, so plain HTTP does without.
    trusted = ssl.create_default_context() if url.startswith("https:") else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return httpx.Client(
        base_url=f"{url.rstrip('/')}/peer/v1",
        auth=Secret(secret_file),
        headers={"Accept-Encoding": "identity"},  # so that the body is as long as the object
        timeout=httpx.Timeout(timeout_s, connect=_CONNECT_S),
        verify=trusted,
        trust_env=False,
    )


@dataclass(frozen=True, kw_only=True)
class Response:
    """A complete answer of a peer. ``headers``: by name, in lower case."""

    code: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def is_success(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.code < 300

    @property
    def refusal(self) -> str:
        """The message of a refusal: one printable line of bounded length."""
        try:
            (fault,) = json.loads(self.content).values()
            words = " ".join(str(fault["message"]).split())
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return str(self.code)
        return "".join(letter for letter in words if letter.isprintable())[:_MAX_REFUSAL]


def ask(http: httpx.Client, method: str, path: str, max_bytes: int, **more: Any) -> Response:
    """Send a request to a peer and read its answer.

    Raises:
        httpx.HTTPError: the peer does not answer, or its answer is longer than ``max_bytes`` or takes over a minute.
    """
    with http.stream(method, path, **more) as response:
        return whole(response, max_bytes)


def whole(response: httpx.Response, max_bytes: int) -> Response:
    """Read an answer to its end. Raises what ``ask`` raises."""
    content = bytearray()
    until_s = time.monotonic() + _READ_S
    for piece in response.iter_raw():
        content += piece
        if len(content) > max_bytes:
            raise httpx.RemoteProtocolError(f"an answer of more than {max_bytes} bytes")
        if time.monotonic() > until_s:
            raise httpx.ReadTimeout(f"an answer that takes more than {_READ_S:g} s")
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Response(code=response.status_code, headers=headers, content=bytes(content))
