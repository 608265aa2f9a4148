"""The agent's client of one region's API: requests, answers, and the meaning of refusals."""

import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeVar

import httpx
import structlog
from pydantic import ValidationError

from snaphold.errors import Permanent, Superseded, Transient, Unauthorized
from snaphold.protocol import Claim, Desired, Heartbeat, Hello, HostCallAnswer, Message, Progress, Report, Welcome, Work

_TIMEOUT_S: Final = 10.0  # of one request, on top of the time that a claim may wait
_FIRST_PAUSE_S: Final = 0.2
_FIRST_PAUSES: Final = 15  # of that length: an API that starts at the same time as the agent is ready within seconds
_LONGEST_PAUSE_S: Final = 5.0

_log = structlog.get_logger(__name__)
_Answered = TypeVar("_Answered", bound=Message)
_Result = TypeVar("_Result")


class Nothing(Message):
    """The answer ``{}``."""


class Control:
    """The API of one region. It is thread-safe.

    Every method raises ``Transient`` when the API does not answer or has an internal error, ``Unauthorized`` when it
    rejects the host's token, ``Superseded`` on 409, and ``Permanent`` on any other refusal (by a newer API, say).

    ``token_file`` is read before each request, so that a new token is used without a restart.
    """

    def __init__(self, url: str, token_file: Path) -> None:
        self.url = url
        self._token_file = token_file
        self._http = httpx.Client(
            base_url=f"{url.rstrip('/')}/agent/v1",
            timeout=_TIMEOUT_S,
            limits=httpx.Limits(max_keepalive_connections=8),
            trust_env=False,
        )

    def hello(self, message: Hello) -> Welcome:
        """Open a session: this process has started, or the API does not know it any more."""
        return self._post("hello", message, Welcome)

    def heartbeat(self, message: Heartbeat) -> Desired:
        """Report the states of the instances; return the desired states."""
        return self._post("heartbeat", message, Desired)

    def claim(self, message: Claim) -> Work:
        """Wait up to ``message.wait_s`` seconds for work."""
        return self._post("claim", message, Work, wait_s=message.wait_s)

    def progress(self, task_id: str, message: Progress) -> None:
        """Renew the lease of an attempt."""
        self._post(f"tasks/{task_id}/progress", message, Nothing)

    def report(self, task_id: str, message: Report) -> None:
        """End an attempt."""
        self._post(f"tasks/{task_id}/report", message, Nothing)

    def answer(self, call_id: str, message: HostCallAnswer) -> None:
        """Answer a host call."""
        self._post(f"questions/{call_id}/answer", message, Nothing)

    def close(self) -> None:
        """Close every connection."""
        self._http.close()

    def _post(self, path: str, message: Message, answer: type[_Answered], *, wait_s: float = 0) -> _Answered:
        try:
            token = self._token_file.read_text("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise Unauthorized(f"{self._token_file} has no token of this host") from error
        try:
            response = self._http.post(
                path,
                content=message.model_dump_json(),
                headers={"Content-Type": "application/json", "Authorization": f"Bearer {token}"},
                timeout=_TIMEOUT_S + wait_s,
            )
        except httpx.HTTPError as error:
            raise Transient(f"{self.url} does not answer: {str(error) or type(error).__name__}") from error
        if response.is_success:
            try:
                return answer.model_validate_json(response.content or b"{}")
            except ValidationError as error:
                raise Permanent(f"{self.url} sent an invalid answer to {path}") from error
        said = f"{self.url} answered {response.status_code} to {path}: {response.text[:300]}"
        if response.status_code == httpx.codes.UNAUTHORIZED:
            raise Unauthorized(said)
        if response.status_code == httpx.codes.CONFLICT:
            raise Superseded(said)
        if response.status_code >= 500 or response.status_code in {408, 413, 425, 429}:
            raise Transient(said)
        raise Permanent(said)


def pauses() -> Iterator[float]:
    """Yield the seconds to wait before each further try: 0.2 at first, later doubling up to 5."""
    yield from itertools.repeat(_FIRST_PAUSE_S, _FIRST_PAUSES)
    pause = _FIRST_PAUSE_S
    while True:
        yield pause
        pause = min(2 * pause, _LONGEST_PAUSE_S)


def until_answered(call: Callable[[], _Result], stopping: threading.Event) -> _Result:
    """Repeat ``call`` for as long as the API does not answer or rejects the host's token.

    Raises:
        Transient: ``stopping`` was set.
        Superseded, Permanent: the API's answer.
    """
    for pause in pauses():
        try:
            return call()
        except (Transient, Unauthorized) as error:
            _log.debug("api.no_answer", error=str(error))
            if stopping.wait(pause):
                raise Transient(str(error)) from error
    raise AssertionError
