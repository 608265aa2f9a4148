"""Limits of the API's connections: their number, the size of a header, and the time that a client may take.

uvicorn limits none of these, and httptools does not limit headers. Each connection occupies a file descriptor, of which
a process has few: many clients that never complete their requests must not keep out one that does.
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
from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from snaphold.api.faults import fault
from snaphold.api.middleware import REQUEST_ID
from snaphold.config import Settings

_MAX_HEADERS: Final = 100
_MAX_PIPELINED: Final = 16  # requests of one connection that wait for the answers to earlier ones
_AGENTS: Final = b"/agent/"  # requests of hosts always get a connection
_MIN_BYTES_PER_S: Final = 4096  # a client that sends or reads faster may take as long as it needs
_LINGER_S: Final = 2.0  # while a refused client may go on sending, so that it can read the refusal
_LOOK_INTERVAL_S: Final = 1.0

# File descriptors that are not of clients: database connections (15 with three files each, for the catalog, the queue
# and the identity), the store's files, and the surplus below. Measured with 60 requests at once: 70.
_RESERVED_FILES: Final = 160
_SURPLUS: Final = 32  # connections beyond the limit that are accepted: those of agents are served, others get 503
_MIN_CONNECTIONS: Final = 16  # whatever the limit of open files

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """The limits of one process.

    ``per_client``: connections of one address (one /64 of IPv6). ``arrival_s``: seconds for a header, and for a body.
    ``unread_s``: seconds for which a client may read nothing of an answer.
    """

    connections: int
    per_client: int
    header_bytes: int = 65_536
    arrival_s: float = 20.0
    unread_s: float = 20.0
    look_interval_s: float = _LOOK_INTERVAL_S


def bounds_of(settings: Settings) -> Bounds:
    """The limits in the settings, lowered to what the limit of open files allows. A lowered limit is logged."""
    files, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = sys.maxsize if files == resource.RLIM_INFINITY else max(_MIN_CONNECTIONS, files - _RESERVED_FILES)
    if most < settings.max_connections:
        _log.warning("connections.few", connections=most, wanted=settings.max_connections, open_files=files)
    connections = min(settings.max_connections, most)
    return Bounds(
        connections=connections,
        per_client=settings.max_connections_per_client or connections // 2,
        arrival_s=settings.request_timeout_s,
        unread_s=settings.request_timeout_s,
    )


class Connections:
    """All connections of one server. Use it in the server's event loop only.

    A connection *waits* while its client has to send a request or the rest of one. A connection beyond the limit ends
    the connection that has waited longest: one of the same client, or of the client with the most waiting connections.
    If none waits, the new connection gets 503, unless it is an agent's. So a client that sends a complete request at
    once is served, whatever others do.
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
        """A new connection, as ``uvicorn.Config(http=…)`` makes them."""
        return Connection(self, config, server_state, app_state, _loop)

    def opened(self, connection: "Connection") -> None:
        """Add a connection, and make room for it."""
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
        """Remove a connection."""
        if connection in self._all:
            self.works(connection)
            self._all.discard(connection)
            self._count[connection.client_key] -= 1
            if not self._count[connection.client_key]:
                del self._count[connection.client_key]

    def waits(self, connection: "Connection") -> None:
        """Note that a connection waits for its client to send something."""
        if connection in self._all:
            self._waiting[connection.client_key].setdefault(connection)

    def works(self, connection: "Connection") -> None:
        """Note that a connection's request has arrived and is being answered."""
        waiting = self._waiting.get(connection.client_key)
        if waiting is not None:
            waiting.pop(connection, None)
            if not waiting:
                del self._waiting[connection.client_key]

    def _end_waiting(self, client: str) -> bool:
        """End the connection of this client that has waited longest. False: none waits."""
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
    """A connection of uvicorn that ends when its client is too slow, or sends too much."""

    def __init__(self, connections: Connections, *args: Any) -> None:
        super().__init__(*args)
        self.client_key = ""
        self.surplus = False
        self._connections = connections
        self._bounds = connections.bounds
        self._active: RequestResponseCycle | None = None  # the request that is being answered, or was last
        self._in_header = True  # or before it
        self._in_body = False
        self._completed = False  # whether the last bytes completed a request
        self.received = 0  # bytes of the header or body that is arriving
        self._waited_s = 0.0  # for the rest of it
        self._unread_s = 0.0  # since the client has last read something
        self._unsent_bytes = 0  # at the last look
        self._has_read = False  # since the last look
        self._header_size = 0
        self._refusal: tuple[int, str] | None = None
        self._ended = False  # by this side; further bytes are ignored

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Add the connection."""
        super().connection_made(transport)
        self.client_key = _key_of(self.client[0] if self.client else "")
        self._connections.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove the connection, and tell the application that its client has gone."""
        self._connections.closed(self)
        self._abandon()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse these bytes, and refuse a header that has become too large."""
        if self._ended:
            return
        self._completed = False
        super().data_received(data)
        if self._in_header and not self._completed and not self._ended:
            self.received += len(data)
            if self.received > self._bounds.header_bytes:
                self.end(413, self._too_large)

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser, or one of the methods below, has not accepted."""
        self._refusal = self._refusal or (400, msg)
        self.end(*self._refusal)

    def on_message_begin(self) -> None:
        """Handle the start of a request."""
        super().on_message_begin()
        self._header_size = 0

    def on_url(self, url: bytes) -> None:
        """Handle a part of the path."""
        super().on_url(url)
        self._measure(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Handle a header."""
        super().on_header(name, value)
        self._measure(len(name) + len(value) + 4)
        if len(self.headers) > _MAX_HEADERS:
            self._refuse(413, f"The request has more than {_MAX_HEADERS} headers.")

    def on_headers_complete(self) -> None:
        """Handle the end of the headers: the application starts, unless earlier requests are to be answered first."""
        self._in_header, self._in_body = False, True
        self.received, self._waited_s = 0, 0.0
        self.app = _busy if self.surplus and not self.url.startswith(_AGENTS) else self.config.loaded_app
        super().on_headers_complete()
        if len(self.pipeline) > _MAX_PIPELINED:
            self._refuse(413, f"More than {_MAX_PIPELINED} requests wait for the answers to earlier ones.")

    def on_body(self, body: bytes) -> None:
        """Handle a part of the body."""
        self.received += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Handle the end of the request."""
        super().on_message_complete()
        self._in_header, self._in_body, self._completed = True, False, True
        self.received, self._waited_s = 0, 0.0
        if not self.cycle.response_complete:
            self._connections.works(self)

    def on_response_complete(self) -> None:
        """Handle the end of an answer: the next request may be read, once those that have been read are answered."""
        super().on_response_complete()
        if self.pipeline:
            self.flow.pause_reading()
        else:
            self._waited_s = 0.0
            self._connections.waits(self)

    def resume_writing(self) -> None:
        """Note that the client reads its answer."""
        self._has_read = True
        super().resume_writing()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._active = cycle
        super()._start_asgi_task(cycle, app)

    def _unsupported_upgrade_warning(self) -> None:
        """Do not log this: any client may ask for another protocol, and gets its answer in this one."""

    def look(self, passed_s: float) -> None:
        """Note that so much time has passed, and end the connection if its client is too slow."""
        if self.flow.write_paused or self.transport.is_closing() or self._ended:
            self._unread_s = 0.0 if self._reads_on(passed_s) else self._unread_s + passed_s
            if self._unread_s > (_LINGER_S if self._ended else self._bounds.unread_s):
                self.cut()
            return
        self._unread_s = 0.0
        if self.flow.read_paused or (self._answering and not self._in_body):
            return
        self._waited_s += passed_s
        allowed_s = self._bounds.arrival_s
        if self._in_body:
            allowed_s += self.received / _MIN_BYTES_PER_S
        elif not self.received:
            allowed_s = max(allowed_s, self.timeout_keep_alive)
        if self._waited_s > allowed_s:
            part = "body" if self._in_body else "header"
            self.end(400, f"The rest of the request's {part} did not arrive within {allowed_s:.0f} s.", linger=False)

    def end(self, code: int, message: str, *, linger: bool = True) -> None:
        """End the connection, with this fault if a request has begun to arrive and its answer has not begun.

        ``linger``: ignore for a moment what the client goes on sending. If the connection were closed at once, it would
        be reset, and the client would lose the answer.
        """
        if self._ended and not linger:
            self.cut()
        if self._ended or self.transport.is_closing():
            return
        self._ended = True
        self._unread_s = 0.0
        self._unset_keepalive_if_required()
        cycle = self._abandon()
        self.pipeline.clear()
        unanswered = self.received > 0 and self._in_header if cycle is None else not cycle.response_started
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
        """Whether the application answers a request of this connection, or waits for the rest of its body."""
        return self._active is not None and not self._active.response_complete

    def _abandon(self) -> RequestResponseCycle | None:
        """Tell the application that its client has gone. Returns the request that was being answered, if any."""
        if self._active is None or self._active.response_complete:
            return None
        self._active.disconnected = True
        self._active.message_event.set()
        return self._active

    def _reads_on(self, passed_s: float) -> bool:
        """Whether the client has read enough of its answer since the last look."""
        unsent = self.transport.get_write_buffer_size()
        has_read = self._has_read or self._unsent_bytes - unsent >= _MIN_BYTES_PER_S * passed_s
        self._unsent_bytes, self._has_read = unsent, False
        return has_read

    @property
    def _too_large(self) -> str:
        return f"The request's header is larger than {self._bounds.header_bytes} bytes."

    def _measure(self, size: int) -> None:
        self._header_size += size
        if self._header_size > self._bounds.header_bytes:
            self._refuse(413, self._too_large)

    def _refuse(self, code: int, message: str) -> None:
        """Make the parser stop, and ``send_400_response`` answer with this fault."""
        self._refusal = (code, message)
        raise ValueError(message)


async def _busy(scope: Scope, receive: Receive, send: Send) -> None:
    """The application for connections beyond the limit."""
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
    """The key of a client: its address, or its /64 network of IPv6."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.version == 6 and parsed.ipv4_mapped is None:
        return str(ipaddress.ip_network((int(parsed), 64), strict=False))
    return str(parsed)
