"""Other regions as this one sees them: their APIs, asked over HTTP with a token of our own (snaphold.protocol)."""

from pathlib import Path
from typing import Final, TypeVar

import httpx
from pydantic import ValidationError

from snaphold.errors import Permanent, Unavailable
from snaphold.protocol import Message, PeerAnswer, PeerQuestion, PeerRecord

_TIMEOUT_S: Final = 5.0
_Answered = TypeVar("_Answered", bound=Message)


class _Nothing(Message):
    """The answer ``{}``."""


class Peer:
    """One other region. Implements ``service.deployment.Peer``; share one object among the threads of a process.

    ``token_file`` is read before each request, so that a token that was made meanwhile is used without a restart.
    Every method raises ``Unavailable`` when the region is silent or does not know our token, and ``Permanent`` when
    it refuses.
    """

    def __init__(self, region: str, url: str, token_file: Path) -> None:
        self._region = region
        self._token_file = token_file
        self._http = httpx.Client(base_url=f"{url.rstrip('/')}/peer/v1", timeout=_TIMEOUT_S, trust_env=False)

    def copies(self, question: PeerQuestion) -> PeerAnswer:
        """Which of these backups are there."""
        return self._post("copies", question, PeerAnswer)

    def record(self, message: PeerRecord) -> None:
        """Have a copy whose objects are all there made a backup of that region."""
        self._post("record", message, _Nothing)

    def _post(self, path: str, message: Message, answer: type[_Answered]) -> _Answered:
        try:
            token = self._token_file.read_text("ascii").strip()
            response = self._http.post(
                path,
                content=message.model_dump_json(),
                headers={"Content-Type": "application/json", "Authorization": f"Bearer {token}"},
            )
        except (OSError, UnicodeDecodeError, httpx.HTTPError) as error:
            raise Unavailable(f"Region {self._region} does not answer.") from error
        if response.is_success:
            try:
                return answer.model_validate_json(response.content)
            except ValidationError as error:
                raise Unavailable(f"Region {self._region} gave an answer that cannot be understood.") from error
        if response.status_code >= 500 or response.status_code in {401, 408, 413, 429}:
            raise Unavailable(f"Region {self._region} does not answer as it should ({response.status_code}).")
        try:
            (fault,) = response.json().values()
            said = str(fault["message"])
        except (ValueError, KeyError, TypeError, AttributeError):
            said = str(response.status_code)
        raise Permanent(f"Region {self._region} refuses: {said}")
