"""The connections to the API, on real sockets: how many, how large a header, how long a request may take to arrive."""

import asyncio
import json
import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Final

import pytest
import uvicorn

from snaphold.api.connections import Bounds, Connection, Connections, bounds_of
from snaphold.config import Settings
from tests.api.site import poll

EIGHT: Final = Bounds(connections=8, per_client=8, look_interval_s=3600)  # time passes when a test says so
HALF_HEADER: Final = b"GET /v1.0 HTTP/1.1\r\nHo"
HALF_BODY: Final = b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"


class Application:
    """Answers by path: ``/wait`` once ``release`` is called, ``/body`` with the body, ``/endless`` for ever."""

    def __init__(self) -> None:
        self.at_work = 0
        self.abandoned = threading.Event()
        self._released = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One request."""
        body = b""
        while scope["path"] != "/refused" and (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message["more_body"]:
                break
        else:
            if scope["path"] != "/refused":
                self.abandoned.set()
                return
        self.at_work += 1
        if scope["path"].endswith("/wait"):
            await asyncio.to_thread(self._released.wait)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while scope["path"] == "/endless" and not self._released.is_set():
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": body})
        self.at_work -= 1

    def release(self) -> None:
        """Let the waiting requests be answered."""
        self._released.set()


class Client:
    """One connection."""

    def __init__(self, port: int, source: str = "127.0.0.1") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 20, source_address=(source, 0))

    def send(self, data: bytes) -> "Client":
        """Send these bytes."""
        self.socket.sendall(data)
        return self

    def get(self, path: str) -> "Client":
        """Send a whole request, the only one of this connection."""
        return self.send(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())

    def answer(self) -> bytes:
        """Everything until the service ends the connection."""
        parts = []
        with suppress(ConnectionResetError):
            while part := self.socket.recv(65536):
                parts.append(part)
        return b"".join(parts)

    def read_until_resumed(self, service: "Service") -> None:
        """Read until the service may write again."""
        (connection,) = service.connections()
        while not connection._has_read:
            self.socket.recv(65536)

    def until(self, end: bytes) -> None:
        """Read the answer up to these bytes."""
        got = b""
        while not got.endswith(end):
            got += self.socket.recv(1)

    def status(self) -> int | None:
        """The status of the answer; None: there was none."""
        answer = self.answer()
        return int(answer.split()[1]) if answer else None


class Service:
    """A server with these bounds on a free port."""

    def __init__(self, bounds: Bounds, stack: ExitStack) -> None:
        self.application = Application()
        self._stack = stack
        started = threading.Event()

        class Server(uvicorn.Server):
            async def startup(self, sockets: Any = None) -> None:
                await super().startup(sockets)
                started.set()

        self._server = Server(
            uvicorn.Config(
                self.application,
                host="127.0.0.1",
                port=0,
                log_config=None,
                lifespan="off",
                ws="none",
                timeout_keep_alive=30,
                http=Connections(bounds).protocol,  # type: ignore[arg-type]
            )
        )
        thread = threading.Thread(target=self._server.run, daemon=True)
        thread.start()
        stack.callback(thread.join)
        stack.callback(self._end)
        assert started.wait(20)
        self._port = self._server.servers[0].sockets[0].getsockname()[1]

    def connect(self, source: str = "127.0.0.1") -> Client:
        """One more connection, which the service has noticed."""
        before = self._server.server_state.connections.copy()
        client = Client(self._port, source)
        self._stack.callback(client.socket.close)
        poll(lambda: bool(self._server.server_state.connections - before))
        return client

    def connections(self) -> list[Connection]:
        """Those that are there."""
        return [one for one in self._server.server_state.connections.copy() if isinstance(one, Connection)]

    def passes(self, seconds: float) -> None:
        """So much time passes."""
        for connection in self.connections():
            connection.loop.call_soon_threadsafe(connection.look, seconds)

    def has_received(self, size: int) -> None:
        """Wait until this much of a header or body has come, on all connections together."""
        poll(lambda: sum(connection.received for connection in self.connections()) == size)

    def works_on(self, count: int) -> None:
        """Wait until the application works on so many requests."""
        poll(lambda: self.application.at_work == count)

    def _end(self) -> None:
        self.application.release()
        self._server.should_exit = True
        self._server.force_exit = True


@contextmanager
def service_with(bounds: Bounds) -> Iterator[Service]:
    """A service, ended afterwards."""
    with ExitStack() as stack:
        yield Service(bounds, stack)


def fault_in(answer: bytes) -> Any:
    """The document of a refusal."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/json" in head
    assert b"x-compute-request-id: req-" in head.lower()
    return json.loads(body)


@pytest.mark.parametrize(
    ("sent", "code", "name", "message"),
    [
        pytest.param(
            b"GET / HTTP/1.1\r\nX: " + b"x" * 5_000_000 + b"\r\n\r\n",
            413,
            "overLimit",
            "The request's header is larger than 65536 bytes.",
            id="one header of 5 MB",
        ),
        pytest.param(
            b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n",
            413,
            "overLimit",
            "The request's header is larger than 65536 bytes.",
            id="a long path",
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 101 + b"\r\n",
            413,
            "overLimit",
            "The request has more than 100 headers.",
            id="many headers",
        ),
        pytest.param(
            b"\r\n" * 40_000,
            413,
            "overLimit",
            "The request's header is larger than 65536 bytes.",
            id="empty lines without end",
        ),
        pytest.param(b"hello\r\n\r\n", 400, "badRequest", "Invalid HTTP request received.", id="no HTTP"),
    ],
)
def test_headers_are_bounded(sent: bytes, code: int, name: str, message: str) -> None:
    """What is no header, or too large a one, is refused in the form of all faults, and the connection ends."""
    with service_with(EIGHT) as service:
        client = service.connect()
        sender = threading.Thread(target=_send, args=(client, sent))
        sender.start()
        answer = client.answer()
        sender.join()
    assert fault_in(answer) == {name: {"code": code, "message": message}}


def _send(client: Client, data: bytes) -> None:
    with suppress(OSError):  # the service is free to end it before
        client.send(data)


def test_a_large_header_that_is_allowed() -> None:
    """A token of 32 KB, as some identity services make, is none too large."""
    with service_with(EIGHT) as service:
        client = service.connect().send(
            b"GET / HTTP/1.1\r\nConnection: close\r\nX-Auth-Token: " + b"x" * 32_768 + b"\r\n\r\n"
        )
        assert client.status() == 200


def test_a_large_body_is_no_header() -> None:
    """A body counts towards no header, however much of it comes at once."""
    with service_with(EIGHT) as service:
        client = service.connect().send(
            b"POST /body HTTP/1.1\r\nContent-Length: 200000\r\nConnection: close\r\n\r\n" + b"x" * 200_000
        )
        assert client.status() == 200


@pytest.mark.parametrize(
    ("sent", "in_s", "answer"),
    [
        pytest.param(b"", 30, None, id="nothing"),
        pytest.param(
            HALF_HEADER, 20, "The rest of the request's header did not arrive within 20 s.", id="half a header"
        ),
        pytest.param(HALF_BODY, 20, "The rest of the request's body did not arrive within 20 s.", id="half a body"),
    ],
)
def test_a_request_arrives_in_time(sent: bytes, in_s: float, answer: str | None) -> None:
    """A connection whose client sends nothing, or not all, is ended; the application learns of it."""
    with service_with(EIGHT) as service:
        client = service.connect().send(sent)
        service.has_received(1 if sent == HALF_BODY else len(sent))
        service.passes(in_s - 1)
        service.passes(1.1)
        got = client.answer()
        if sent == HALF_BODY:
            assert service.application.abandoned.wait(20)
    assert (fault_in(got)["badRequest"]["message"] if got else None) == answer


def test_a_large_body_has_longer() -> None:
    """A body may take a second more for each 4096 bytes of it that came; whoever only trickles is ended."""
    with service_with(EIGHT) as service:
        client = service.connect().send(
            b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + b"x" * 40_960
        )
        service.has_received(40_960)
        service.passes(29)
        service.passes(1.1)
        assert fault_in(client.answer())["badRequest"]["message"].endswith("did not arrive within 30 s.")


def test_a_body_that_was_refused_arrives_in_time_too() -> None:
    """An answer that comes before the body's end does not let the rest of the body take for ever."""
    with service_with(EIGHT) as service:
        client = service.connect().send(HALF_BODY.replace(b"/body", b"/refused"))
        client.until(b"\r\n0\r\n\r\n")
        service.passes(20.1)
        assert client.answer() == b""


def test_an_answer_is_fetched_in_time() -> None:
    """A client that does not read its answer is cut off."""
    with service_with(EIGHT) as service:
        service.connect().get("/endless")
        poll(lambda: any(connection.flow.write_paused for connection in service.connections()))
        service.passes(60.1)
        poll(lambda: not service.connections())
        service.application.release()


def test_a_slow_reader_is_not_cut_off() -> None:
    """However long an answer takes, its client may go on reading as long as it reads some of it in time."""
    with service_with(EIGHT) as service:
        client = service.connect().get("/endless")
        for _ in range(5):
            poll(lambda: any(connection.flow.write_paused for connection in service.connections()))
            service.passes(15)
            client.read_until_resumed(service)
        assert len(service.connections()) == 1
        service.application.release()


def test_pipelined_requests_are_bounded() -> None:
    """A few requests may be sent ahead of the answers, and all are answered in turn; too many end the connection."""
    with service_with(EIGHT) as service:
        request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
        client = service.connect().send(request * 16).get("/")
        assert client.answer().count(b"HTTP/1.1 200 OK") == 17
        flood = service.connect().send(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n" + request * 2_000)
        assert fault_in(flood.answer()) == {
            "overLimit": {"code": 413, "message": "More than 16 requests wait for the answers to earlier ones."}
        }
        service.application.release()
        assert service.connect().get("/").status() == 200


def test_a_request_that_is_worked_on_may_take_long() -> None:
    """No limit of time is for the service's own part: long polls and slow answers stay."""
    with service_with(EIGHT) as service:
        client = service.connect().get("/wait")
        service.works_on(1)
        service.passes(3600)
        service.application.release()
        assert client.status() == 200


def test_time_is_looked_at() -> None:
    """The service itself ends, in time, a connection that nothing more comes on."""
    with service_with(Bounds(connections=8, per_client=8, arrival_s=0.1, look_interval_s=0.05)) as service:
        assert service.connect().send(HALF_HEADER).status() == 400


@pytest.mark.parametrize("sent", [b"", HALF_HEADER, HALF_BODY], ids=["nothing", "half a header", "half a body"])
def test_who_waits_longest_makes_room(sent: bytes) -> None:
    """One connection too many ends the one whose client has kept the service waiting longest; all others stay."""
    with service_with(EIGHT) as service:
        clients = [service.connect().send(sent) for _ in range(8)]
        assert service.connect().get("/").status() == 200
        assert clients[0].status() == (503 if sent else None)
        assert [client.get("/").status() for client in clients[1:] if not sent] == [200] * (0 if sent else 7)


def test_one_client_does_not_take_the_place_of_others() -> None:
    """A client beyond its share ends connections of its own; the others' stay, and so many idle ones as it likes."""
    bounds = Bounds(connections=6, per_client=3, look_interval_s=3600)
    with service_with(bounds) as service:
        other = service.connect("127.0.0.2")
        flood = [service.connect("127.0.0.3") for _ in range(8)]
        assert [client.status() for client in flood[:5]] == [None] * 5
        assert other.get("/").status() == 200


def test_the_client_with_most_idle_connections_makes_room() -> None:
    """Where all clients together have too many, the one who has most waiting ones loses one."""
    bounds = Bounds(connections=4, per_client=3, look_interval_s=3600)
    with service_with(bounds) as service:
        first = service.connect("127.0.0.2")
        many = [service.connect("127.0.0.3") for _ in range(3)]
        assert service.connect("127.0.0.4").get("/").status() == 200
        assert many[0].status() is None
        assert first.get("/").status() == 200


def test_agents_are_never_shut_out() -> None:
    """While every connection is being worked on, one more is told so (503), and an agent's gets through."""
    with service_with(EIGHT) as service:
        clients = [service.connect().get("/agent/v1/wait") for _ in range(8)]
        service.works_on(8)
        assert fault_in(service.connect().get("/").answer()) == {
            "serviceUnavailable": {"code": 503, "message": "The service has too many connections."}
        }
        agents = [service.connect().get("/agent/v1/wait") for _ in range(4)]
        service.works_on(12)
        service.application.release()
        assert [client.status() for client in clients + agents] == [200] * 12


def test_connections_end_before_files_do() -> None:
    """There are never more connections than the process may open files for, whatever the settings say."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        few = bounds_of(Settings(max_connections=1000))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (few.connections, few.per_client) == (96, 48)
