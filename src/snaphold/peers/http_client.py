"""The way to another region's ``/peer/v1``."""

import json
import ssl
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

_CONNECT_S: Final = 5.0
_READ_S: Final = 60.0  # for an answer that is read as a whole
_MOST_WORDS: Final = 500  # characters of a refusal


class Secret(httpx.Auth):
    """What we verify ourselves by, read from its file before each request: a new one is used without a restart."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Show it. Raises ``OSError``, ``UnicodeDecodeError``."""
        request.headers["Authorization"] = f"Bearer {self._file.read_text('ascii').strip()}"
        yield request


def open_http_client(url: str, secret_file: Path, timeout_s: float) -> httpx.Client:
    """A client of the region at ``url``, trusting whom this machine trusts; share it among threads."""
    # Reading the certificates of a machine takes its time.
    trusted = ssl.create_default_context() if url.startswith("https:") else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return httpx.Client(
        base_url=f"{url.rstrip('/')}/peer/v1",
        auth=Secret(secret_file),
        headers={"Accept-Encoding": "identity"},  # what is read is as long as what is sent
        timeout=httpx.Timeout(timeout_s, connect=_CONNECT_S),
        verify=trusted,
        trust_env=False,
    )


@dataclass(frozen=True, kw_only=True)
class Said:
    """A whole answer of a peer. ``headers``: by their names in lower case."""

    code: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def is_success(self) -> bool:
        """2xx."""
        return 200 <= self.code < 300

    @property
    def refusal(self) -> str:
        """What a refusal says, for people: one line with an end."""
        try:
            (fault,) = json.loads(self.content).values()
            words = " ".join(str(fault["message"]).split())
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return str(self.code)
        return "".join(letter for letter in words if letter.isprintable())[:_MOST_WORDS]


def ask(http: httpx.Client, method: str, path: str, max_bytes: int, **more: Any) -> Said:
    """Ask a peer, and read what it answers.

    Raises:
        httpx.HTTPError: it is silent, answers with more than ``max_bytes``, or its answer takes more than a minute.
    """
    with http.stream(method, path, **more) as response:
        return whole(response, max_bytes)


def whole(response: httpx.Response, max_bytes: int) -> Said:
    """Read an answer to its end. Raises as ``ask`` does."""
    content = bytearray()
    until_s = time.monotonic() + _READ_S
    for piece in response.iter_raw():
        content += piece
        if len(content) > max_bytes:
            raise httpx.RemoteProtocolError(f"an answer of more than {max_bytes} bytes")
        if time.monotonic() > until_s:
            raise httpx.ReadTimeout(f"an answer that takes more than {_READ_S:g} s")
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Said(code=response.status_code, headers=headers, content=bytes(content))
