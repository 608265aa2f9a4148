"""A client of another region's service."""

from pathlib import Path
from typing import Final, TypeVar

import httpx
from pydantic import ValidationError

from snaphold.errors import Forbidden, OverLimit, Unavailable, Unprocessable
from snaphold.peers.http_client import ask, open_http_client
from snaphold.protocol import (
    Message,
    Nothing,
    PeerAnnouncement,
    PeerAnswer,
    PeerQuery,
    PeerRecord,
    PeerWithdrawal,
    PeerWithdrawn,
)

_TIMEOUT_S: Final = 5.0
_MAX_ANSWER: Final = 1 << 20  # bytes
_Answered = TypeVar("_Answered", bound=Message)


class PeerClient:
    """A client of one other region, which threads may share. Implements ``service.deployment.Peer``."""

    def __init__(self, region: str, url: str, secret_file: Path) -> None:
        self._region = region
        self._http = open_http_client(url, secret_file, _TIMEOUT_S)

    def copies(self, question: PeerQuery) -> PeerAnswer:
        """Ask which of these backups have a copy there, and whether one more may come."""
        return self._post("copies", question, PeerAnswer)

    def announce(self, message: PeerAnnouncement) -> None:
        """Announce the objects of a copy."""
        self._post("announce", message, Nothing)

    def record(self, message: PeerRecord) -> None:
        """Have the other region record a copy, whose objects are complete, as a backup of its own."""
        self._post("record", message, Nothing)

    def withdraw(self, message: PeerWithdrawal) -> PeerWithdrawn:
        """Withdraw the announcement of a copy."""
        return self._post("withdraw", message, PeerWithdrawn)

    def _post(self, path: str, message: Message, answer: type[_Answered]) -> _Answered:
        try:
            said = ask(
                self._http,
                "POST",
                path,
                _MAX_ANSWER,
                content=message.model_dump_json(),
                headers={"Content-Type": "application/json"},
            )
        except (OSError, UnicodeDecodeError, httpx.HTTPError) as error:
            raise Unavailable(f"Region {self._region} does not answer.") from error
        if said.is_success:
            try:
                return answer.model_validate_json(said.content)
            except ValidationError as error:
                raise Unavailable(f"Region {self._region} gave an answer that cannot be understood.") from error
        match said.code:
            case 403:
                raise Forbidden(f"Region {self._region} refuses: {said.refusal}")
            case 413:
                raise OverLimit(f"Region {self._region} refuses: {said.refusal}")
            case 422:
                raise Unprocessable(f"Region {self._region} refuses: {said.refusal}")
            case code:
                raise Unavailable(f"Region {self._region} does not answer as it should ({code}).")
