"""The connections to the API: how many there may be, how large a header is, and how long a request may take to arrive.

uvicorn has no limit for any of these, and httptools none for a header. An idle connection costs a file of the process,
and a process has few: 300 clients that never finish their requests must not shut out one that does.
"""

import asyncio
import ipaddress
import resource
import sys
import uuid
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any, Final

import structlog
from starlette.types import Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from snaphold.api.faults import fault
from snaphold.api.middleware import REQUEST_ID
from snaphold.config import Settings

_MAX_HEADERS: Final = 100
_AGENTS: Final = b"/agent/"  # the paths that always get a connection: of hosts, whose claims wait for long
_BODY_BYTES_PER_S: Final = 4096  # a body that arrives faster than this may take as long as it needs
_UNREAD_S: Final = 60.0  # that a client may leave an answer in our hands
_LINGER_S: Final = 2.0  # that a refused client may go on sending, so that it gets to read why
_LOOK_INTERVAL_S: Final = 1.0

# Files of the process that are no clients': the catalog's connections (15 of three files each, the queue's and the
# identity's likewise), the store's files, the surplus below. Measured with 60 requests at once: 70.
_FILES_KEPT: Final = 160
_SURPLUS: Final = 32  # connections beyond the limit that are heard at all: an agent's gets through, others get 503
_FEWEST: Final = 16  # connections, however few files there may be

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Of one process. ``per_client``: of one address (one /64 of IPv6). ``arrival_s``: for a header, and for a body."""

    connections: int
    per_client: int
    header_bytes: int = 65_536
    arrival_s: float = 20.0
    unread_s: float = _UNREAD_S
    look_interval_s: float = _LOOK_INTERVAL_S


def bounds_of(settings: Settings) -> Bounds:
    """As the settings say, as far as the process's limit of open files leaves room; what is missing is logged."""
    files, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = sys.maxsize if files == resource.RLIM_INFINITY else max(_FEWEST, files - _FILES_KEPT)
    if most < settings.max_connections:
        _log.warning("connections.few", connections=most, wanted=settings.max_connections, open_files=files)
    connections = min(settings.max_connections, most)
    return Bounds(
        connections=connections,
        per_client=settings.max_connections_per_client or connections // 2,
        arrival_s=settings.request_timeout_s,
    )


class Connections:
    """All connections of one server. It lives in the server's event loop.

    A connection *waits* while its client owes a request or a part of it. One too many makes the longest waiting
    connection of the same client end, or of the client that has most of them; where none waits, it is answered 503
    itself, unless it is an agent's. So whoever sends a whole request at once is heard, whatever others do.
    """

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self._all: set[Connection] = set()
        self._count: Counter[str] = Counter()  # by client
        self._waiting: defaultdict[str, dict[Connection, None]] = defaultdict(dict)  # by client, the oldest first
        self._looking: asyncio.TimerHandle | None = None

    def protocol(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> "Connection":
        """A new connection: what ``uvicorn.Config(http=…)`` takes."""
        return Connection(self, config, server_state, app_state, _loop)

    def opened(self, connection: "Connection") -> None:
        """Count a connection, and make room for it."""
        client = connection.client_key
        self._all.add(connection)
        self._count[client] += 1
        if self._count[client] > self.bounds.per_client:
            connection.surplus = not self._end_waiting(client)
        elif len(self._all) > self.bounds.connections:
            most = max(self._waiting, key=lambda key: len(self._waiting[key]), default=None)
            connection.surplus = most is None or not self._end_waiting(most)
        if connection.surplus and len(self._all) > self.bounds.connections + _SURPLUS:
            connection.cut()
        self.waits(connection)
        if self._looking is None:
            self._look_later(connection.loop)

    def closed(self, connection: "Connection") -> None:
        """Forget a connection."""
        if connection in self._all:
            self.works(connection)
            self._all.discard(connection)
            self._count[connection.client_key] -= 1
            if not self._count[connection.client_key]:
                del self._count[connection.client_key]

    def waits(self, connection: "Connection") -> None:
        """A connection's client has to send something now."""
        if connection in self._all:
            self._waiting[connection.client_key].setdefault(connection)

    def works(self, connection: "Connection") -> None:
        """A connection's request is all there and is being answered."""
        waiting = self._waiting.get(connection.client_key)
        if waiting is not None:
            waiting.pop(connection, None)
            if not waiting:
                del self._waiting[connection.client_key]

    def _end_waiting(self, client: str) -> bool:
        """End the connection of this client that has waited longest; whether there was one."""
        oldest = next(iter(self._waiting.get(client, ())), None)
        if oldest is None:
            return False
        self.works(oldest)
        oldest.end(503, "The service has too many connections, and this one sent no whole request.", linger=False)
        return True

    def _look_later(self, loop: asyncio.AbstractEventLoop) -> None:
        begun_s = loop.time()

        def look() -> None:
            passed_s = loop.time() - begun_s
            for connection in list(self._all):
                connection.look(passed_s)
            self._looking = None
            if self._all:
                self._look_later(loop)

        self._looking = loop.call_later(self.bounds.look_interval_s, look)


class Connection(HttpToolsProtocol):
    """One client's connection: uvicorn's, which ends when its client does not do its part in time."""

    def __init__(self, connections: Connections, *args: Any) -> None:
        super().__init__(*args)
        self.client_key = ""
        self.surplus = False
        self._connections = connections
        self._bounds = connections.bounds
        self._in_header = True  # or before it
        self._in_body = False
        self._completed = False  # a request, by the bytes that were read last
        self.received = 0  # bytes of the header or body that is arriving
        self._waited_s = 0.0  # for the rest of it
        self._unread_s = 0.0
        self._header_size = 0
        self._refusal: tuple[int, str] | None = None
        self._ended = False  # by us; what still comes is not read

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count it."""
        super().connection_made(transport)
        self.client_key = _key_of(self.client[0] if self.client else "")
        self._connections.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Count it no more."""
        self._connections.closed(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on, unless the header has become too large."""
        if self._ended:
            return
        self._completed = False
        super().data_received(data)
        if self._in_header and not self._completed and not self._ended:
            self.received += len(data)
            if self.received > self._bounds.header_bytes:
                self.end(413, self._too_large)

    def send_400_response(self, msg: str) -> None:
        """What the parser, or one of the methods below, did not accept."""
        self._refusal = self._refusal or (400, msg)
        self.end(*self._refusal)

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._header_size = 0

    def on_url(self, url: bytes) -> None:
        """A part of the request's path."""
        super().on_url(url)
        self._measure(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header of it."""
        super().on_header(name, value)
        self._measure(len(name) + len(value) + 4)
        if len(self.headers) > _MAX_HEADERS:
            self._refuse(413, f"The request has more than {_MAX_HEADERS} headers.")

    def on_headers_complete(self) -> None:
        """The body comes next, and the application begins to work."""
        self._in_header, self._in_body = False, True
        self.received, self._waited_s = 0, 0.0
        self.app = _busy if self.surplus and not self.url.startswith(_AGENTS) else self.config.loaded_app
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self.received += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is all there."""
        super().on_message_complete()
        self._in_header, self._in_body, self._completed = True, False, True
        self.received, self._waited_s = 0, 0.0
        if not self.cycle.response_complete:
            self._connections.works(self)

    def on_response_complete(self) -> None:
        """It is answered: the next one may come."""
        super().on_response_complete()
        if not self.pipeline:
            self._waited_s = 0.0
            self._connections.waits(self)

    def _unsupported_upgrade_warning(self) -> None:
        """Not logged: anybody may ask for another protocol, and is answered in this one."""

    def look(self, passed_s: float) -> None:
        """So much time has passed: end what takes too long."""
        if self.flow.write_paused or self.transport.is_closing() or self._ended:
            self._unread_s += passed_s
            if self._unread_s > (_LINGER_S if self._ended else self._bounds.unread_s):
                self.cut()
            return
        self._unread_s = 0.0
        if self.flow.read_paused or (self._answering and not self._in_body):
            return
        self._waited_s += passed_s
        allowed_s = self._bounds.arrival_s
        if self._in_body:
            allowed_s += self.received / _BODY_BYTES_PER_S
        elif not self.received:
            allowed_s = max(allowed_s, self.timeout_keep_alive)
        if self._waited_s > allowed_s:
            part = "body" if self._in_body else "header"
            self.end(400, f"The rest of the request's {part} did not arrive within {allowed_s:.0f} s.", linger=False)

    def end(self, code: int, message: str, *, linger: bool = True) -> None:
        """Answer so where a request has begun and nothing has been answered yet, and end the connection.

        ``linger``: read for a moment what the client goes on sending, for a connection that is closed before is reset,
        and the answer lost.
        """
        if self._ended and not linger:
            self.cut()
        if self._ended or self.transport.is_closing():
            return
        self._ended = True
        self._unread_s = 0.0
        self._unset_keepalive_if_required()
        answering = self._answering
        if answering:
            self.cycle.disconnected = True  # the application learns that its caller has gone
            self.cycle.message_event.set()
        unanswered = not self.cycle.response_started if answering else self.received > 0 and self._in_header
        if not (unanswered or self._refusal):
            self.transport.close()
            return
        self.transport.write(_written(code, message))
        self.flow.resume_reading()
        if linger and self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    def cut(self) -> None:
        """End the connection at once."""
        self._ended = True
        self.transport.abort()

    @property
    def _answering(self) -> bool:
        """Whether the application is at work for this connection, or waits for the rest of a body."""
        cycle: RequestResponseCycle | None = self.cycle  # the library's annotation leaves None out
        return cycle is not None and not cycle.response_complete

    @property
    def _too_large(self) -> str:
        return f"The request's header is larger than {self._bounds.header_bytes} bytes."

    def _measure(self, size: int) -> None:
        self._header_size += size
        if self._header_size > self._bounds.header_bytes:
            self._refuse(413, self._too_large)

    def _refuse(self, code: int, message: str) -> None:
        """Have the parser stop, and ``send_400_response`` say this."""
        self._refusal = (code, message)
        raise ValueError(message)


async def _busy(scope: Scope, receive: Receive, send: Send) -> None:
    """The application of those who came too many."""
    answer = fault(503, "The service has too many connections.")
    answer.headers["Connection"] = "close"
    answer.headers[REQUEST_ID] = f"req-{uuid.uuid4()}"
    await answer(scope, receive, send)


def _written(code: int, message: str) -> bytes:
    answer = fault(code, message)
    answer.headers["Connection"] = "close"
    answer.headers[REQUEST_ID] = f"req-{uuid.uuid4()}"
    lines = [name + b": " + value + b"\r\n" for name, value in answer.raw_headers]
    return b"".join([STATUS_LINE[code], *lines, b"\r\n", bytes(answer.body)])


def _key_of(address: str) -> str:
    """What stands for one client: its address, and of IPv6 the network that one client has."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.version == 6 and parsed.ipv4_mapped is None:
        return str(ipaddress.ip_network((int(parsed), 64), strict=False))
    return str(parsed)
