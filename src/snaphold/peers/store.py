"""Another region's store, used over its API: copies are written to it, and read back.

Bytes are held in memory only, one segment at a time. Each body carries its hash (RFC 9530), which the other side checks
before it stores anything. The other side decides what is allowed: see docs/reference/peer-api.md.
"""

import base64
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
from pydantic import ValidationError

from snaphold.errors import Damaged, ObjectExists, ObjectMissing, Permanent, Transient
from snaphold.objects import (
    SEGMENT_SIZE,
    ObjectInfo,
    check_account,
    check_list_prefix,
    check_name,
    check_prefix,
    is_name,
)
from snaphold.peers.http_client import Response, ask, open_http_client, whole
from snaphold.protocol import PeerDigest, PeerListing, PeerPublication

_PIECE: Final = 4 << 20  # bytes that get() yields at once
_TIMEOUT_S: Final = 60.0  # without a byte
_MAX_ANSWER: Final = 64 << 10  # bytes of an answer that is not an object
_MAX_WHOLE: Final = 256 << 20  # bytes of a listing, and of an object that is read whole: a manifest, an index
_MAX_DIGITS: Final = 19  # of a length in bytes


class PeerStores:
    """The containers of another region, as far as it grants access. Threads may share an object."""

    def __init__(self, region: str, url: str, secret_file: Path) -> None:
        self._region = region
        self._http = open_http_client(url, secret_file, _TIMEOUT_S)

    def of(self, account: str) -> "PeerStore":
        """The container of an account. Raises ``Permanent`` when the name is not valid."""
        return PeerStore(self._http, self._region, check_account(account))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


class PeerStore:
    """One container of another region. Implements :class:`snaphold.store.base.ObjectStore`."""

    def __init__(self, http: httpx.Client, region: str, account: str) -> None:
        self._http = http
        self._region = region
        self._path = f"accounts/{account}"

    def put_segment(
        self, prefix: str, number: int, data: Iterable[bytes | memoryview], *, segment_size: int = SEGMENT_SIZE
    ) -> None:
        """Send the segment in one request, with its hash in a header."""
        if number < 0:
            raise Permanent(f"segment {number} cannot be kept")
        params: dict[str, Any] = {"prefix": check_prefix(prefix), **_unless_usual(segment_size)}
        self._put(f"segments/{number}", list(data), **params)

    def publish(self, name: str, prefix: str, count: int, *, size_bytes: int, segment_size: int = SEGMENT_SIZE) -> None:
        """Have the other side publish the segments."""
        check_name(name)
        message = PeerPublication(
            prefix=check_prefix(prefix), count=count, size_bytes=size_bytes, segment_size=segment_size
        )
        self._send("POST", f"publications/{name}", name, content=message.model_dump_json(exclude_defaults=True))

    def put(self, name: str, data: bytes) -> None:
        """Send the object in one request."""
        self._put(f"objects/{check_name(name)}", [data], name=name, replace=False)

    def replace(self, name: str, data: bytes) -> None:
        """Send the object in one request."""
        self._put(f"objects/{check_name(name)}", [data], name=name, replace=True)

    def get(self, name: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Yield the bytes as they arrive."""
        check_name(name)
        if start < 0 or (length is not None and length < 0):
            raise Permanent(f"there is no range of {length} bytes from {start}")
        url = f"{self._path}/objects/{name}"
        with self._mapped(), self._http.stream("GET", url, params=_given(start=start, length=length)) as response:
            if not response.is_success:
                self._check(whole(response, _MAX_ANSWER), name)
            left = _MAX_WHOLE if length is None else length
            for piece in response.iter_raw(_PIECE):
                left -= len(piece)
                if left < 0:
                    raise Damaged(f"Region {self._region} sent more of {name} than was asked for.")
                yield piece

    def sha256(self, name: str, start: int = 0, length: int | None = None) -> str:
        """The hash of what the other region reads from its store."""
        params = _given(start=start, length=length)
        return self._digest(f"digests/{check_name(name)}", name, params)

    def segment_sha256(self, prefix: str, number: int, size_bytes: int, *, segment_size: int = SEGMENT_SIZE) -> str:
        """The hash of what the other region reads from its store."""
        params = _given(prefix=check_prefix(prefix), size_bytes=size_bytes, **_unless_usual(segment_size))
        return self._digest(f"segments/{number}", f"{prefix}{number}", params)

    def size(self, name: str) -> int:
        """The length that the other region reports."""
        said = self._send("HEAD", f"objects/{check_name(name)}", name)
        length = said.headers.get("content-length", "")
        if not (length.isascii() and length.isdigit() and len(length) < _MAX_DIGITS):
            raise Transient(f"Region {self._region} gave an answer that cannot be understood.")
        return int(length)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """The objects that the other region reports, in one request."""
        params = {"prefix": check_list_prefix(prefix)}
        said = self._send("GET", "objects", prefix, max_bytes=_MAX_WHOLE, params=params)
        with self._understood():
            found = PeerListing.model_validate_json(said.content).objects
        if not all(is_name(one.name) and one.name.startswith(prefix) for one in found):
            raise Transient(f"Region {self._region} gave an answer that cannot be understood.")
        for one in found:
            yield ObjectInfo(name=one.name, size_bytes=one.size_bytes, modified_s=one.modified_s)

    def delete(self, name: str) -> None:
        """Have the other side delete the object."""
        self._send("DELETE", f"objects/{check_name(name)}", name)

    def _put(self, path: str, data: Sequence[bytes | memoryview], *, name: str = "", **params: Any) -> None:
        sha256 = hashlib.sha256()
        for piece in data:
            sha256.update(piece)
        headers = {
            "Content-Length": str(sum(len(piece) for piece in data)),
            "Content-Type": "application/octet-stream",
            "Content-Digest": f"sha-256=:{base64.b64encode(sha256.digest()).decode()}:",
        }
        self._send("PUT", path, name, params=params, content=(bytes(piece) for piece in data), headers=headers)

    def _digest(self, path: str, name: str, params: dict[str, Any]) -> str:
        said = self._send("GET", path, name, params=params)
        with self._understood():
            return PeerDigest.model_validate_json(said.content).sha256

    def _send(self, method: str, path: str, name: str, *, max_bytes: int = _MAX_ANSWER, **more: Any) -> Response:
        with self._mapped():
            said = ask(self._http, method, f"{self._path}/{path}", max_bytes, **more)
        self._check(said, name)
        return said

    def _check(self, said: Response, name: str) -> None:
        """Map a status of the other region to an error of snaphold.errors."""
        if said.is_success:
            return
        match said.code:
            case 404:
                raise ObjectMissing(name)
            case 409:
                raise ObjectExists(name)
            case 422:
                raise Damaged(said.refusal)
            case 400 | 403 | 413 | 415:
                raise Permanent(f"Region {self._region} refuses: {said.refusal}")
            case code:
                raise Transient(f"Region {self._region} does not answer as it should ({code}).")

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        try:
            yield
        except (OSError, UnicodeDecodeError, httpx.HTTPError) as error:
            raise Transient(f"Region {self._region} does not answer.") from error

    @contextmanager
    def _understood(self) -> Iterator[None]:
        try:
            yield
        except ValidationError as error:
            raise Transient(f"Region {self._region} gave an answer that cannot be understood.") from error


def _unless_usual(segment_size: int) -> dict[str, int]:
    """The parameter that names the segment size; peers of earlier releases know the usual size only."""
    return {} if segment_size == SEGMENT_SIZE else {"segment_size": segment_size}


def _given(**params: object) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value is not None}
