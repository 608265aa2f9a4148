"""The way to another region's ``/peer/v1``."""

import ssl
from collections.abc import Generator
from pathlib import Path
from typing import Final

import httpx

_CONNECT_S: Final = 5.0


class Secret(httpx.Auth):
    """What we prove ourselves by, read from its file before each request: a new one is used without a restart."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Show it. Raises ``OSError``, ``UnicodeDecodeError``."""
        request.headers["Authorization"] = f"Bearer {self._file.read_text('ascii').strip()}"
        yield request


def open_line(url: str, secret_file: Path, timeout_s: float) -> httpx.Client:
    """A client of the region at ``url``, trusting whom this machine trusts; share it among threads."""
    # Reading the certificates of a machine takes its time.
    trusted = ssl.create_default_context() if url.startswith("https:") else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return httpx.Client(
        base_url=f"{url.rstrip('/')}/peer/v1",
        auth=Secret(secret_file),
        timeout=httpx.Timeout(timeout_s, connect=_CONNECT_S),
        verify=trusted,
        trust_env=False,
    )


def said(response: httpx.Response) -> str:
    """What a refusal says, for people."""
    try:
        (fault,) = response.json().values()
        return str(fault["message"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return str(response.status_code)
