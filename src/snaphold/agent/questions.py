"""Answers to what a caller waits for."""

import time
from typing import Final

import structlog

from snaphold.errors import Refused, SnapholdError
from snaphold.host.servers import Servers
from snaphold.protocol import Answer, Question

_WAY_BACK_S: Final = 0.5  # kept for the answer to reach whoever waits

_log = structlog.get_logger(__name__)


def answer_to(servers: Servers, session: str, question: Question, *, due_s: float) -> Answer | None:
    """Ask the instance's server. Whatever goes wrong is an answer as well, with a class of ``snaphold.errors``.

    ``due_s``, of ``time.monotonic()``: who asked waits until then. None, and nothing is done, when there is no time
    left: they have been told that it was not done.
    """
    left_s = due_s - _WAY_BACK_S - time.monotonic()
    if left_s <= 0:
        _log.info("question too late", kind=question.kind.value, instance=question.instance_id)
        return None
    try:
        payload = servers.ask(question.instance_id, question.kind, question.payload, deadline_s=left_s)
    except Refused as error:
        return Answer(session=session, ok=False, error=type(error).__name__, message=str(error))
    except Exception as error:  # noqa: BLE001 - whoever waits gets an answer, whatever it was
        _log.warning(
            "question failed",
            kind=question.kind.value,
            instance=question.instance_id,
            reason=str(error),
            exc_info=not isinstance(error, SnapholdError),
        )
        return Answer(session=session, ok=False, error="Unavailable", message="The instance does not answer.")
    return Answer(session=session, ok=True, payload=payload)
