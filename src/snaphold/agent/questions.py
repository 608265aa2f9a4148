"""Answers to what a caller waits for."""

import structlog

from snaphold.errors import Refused, SnapholdError
from snaphold.host.servers import Servers
from snaphold.protocol import Answer, Question

_log = structlog.get_logger(__name__)


def answer_to(servers: Servers, session: str, question: Question) -> Answer:
    """Ask the instance's server. Whatever goes wrong is an answer as well, with a class of ``snaphold.errors``."""
    try:
        payload = servers.ask(
            question.instance_id, question.kind, question.payload, deadline_s=max(1.0, question.deadline_s - 0.5)
        )
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
