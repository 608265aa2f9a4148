"""The errors that this project raises, grouped by who must act.

    SnapholdError
    ├── Refused             the caller: change the request (each class is one fault of the contract, section 8)
    │   ├── BadRequest 400 · Unauthorized 401 · Forbidden 403 · NotFound 404 · MethodNotAllowed 405
    │   ├── OverLimit 413 · UnsupportedMediaType 415 · Unprocessable 422 · NotOffered 501
    ├── Unavailable 503     the caller, later: a host or a store does not answer now
    ├── Transient           the queue: run it again
    ├── Permanent           nobody: it has failed; the message is the reason shown to people
    ├── Superseded          this attempt: stop, write nothing, remove what you wrote
    └── SetupError          the operator: one clear line, exit status 1

The module that imports a library maps the library's exceptions to these, and keeps the cause.
"""

from typing import ClassVar, Final, Self

_LONGEST_NAME: Final = 255  # characters that a message repeats


class SnapholdError(Exception):
    """The root of all errors that this project raises on purpose.

    The message says what happened to people, tenants among them, in their terms. ``detail`` is for the log only: paths
    of this machine, output of tools, names of internal accounts.
    """

    def __init__(self, message: str = "", *, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail


class Refused(SnapholdError):
    """The request is refused; the message is shown to the caller."""

    code: ClassVar[int] = 400
    fault: ClassVar[str] = "badRequest"


class BadRequest(Refused):
    """Elements of the request are missing or have values that are not allowed."""


class Unauthorized(Refused):
    """The token is missing, unknown or expired."""

    code = 401
    fault = "unauthorized"


class Forbidden(Refused):
    """The token is valid, but does not permit this."""

    code = 403
    fault = "forbidden"


class NotFound(Refused):
    """The account has no such object. Another account's object does not exist for it."""

    code = 404
    fault = "itemNotFound"

    @classmethod
    def of(cls, kind: str, name: object) -> Self:
        """``Instance 'x' cannot be found.``: all messages of this kind have this form."""
        return cls(f"{kind} '{str(name)[:_LONGEST_NAME]}' cannot be found.")


class MethodNotAllowed(Refused):
    """The route does not have this method. ``allow`` lists those that it has."""

    code = 405
    fault = "badMethod"

    def __init__(self, message: str, allow: str) -> None:
        super().__init__(message)
        self.allow = allow


class OverLimit(Refused):
    """Too large, too many or too often. ``retry_after_s`` is None when waiting does not help."""

    code = 413
    fault = "overLimit"

    def __init__(self, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s

    @classmethod
    def within_a_minute(cls, limit: int, wait_us: int) -> Self:
        """More than ``limit`` requests of one kind in a minute; the next is allowed in ``wait_us`` microseconds."""
        seconds = -(-wait_us // 1_000_000)
        return cls(f"Only {limit} of these requests are allowed in a minute. Retry in {seconds} s.", seconds)


class UnsupportedMediaType(Refused):
    """The body is not JSON."""

    code = 415
    fault = "badMediaType"


class Unprocessable(Refused):
    """The request is valid, but not possible in the present state."""

    code = 422
    fault = "unprocessableEntity"


class NotOffered(Refused):
    """The request is valid, but this deployment does not offer it."""

    code = 501
    fault = "notImplemented"


class Unavailable(SnapholdError):
    """A host or a store does not answer; nothing was changed."""

    code: ClassVar[int] = 503
    fault: ClassVar[str] = "serviceUnavailable"


class Transient(SnapholdError):
    """A temporary fault: the same step may succeed when it is run again."""


class Permanent(SnapholdError):
    """Running the step again would not help. The message is the reason shown to people."""


class ObjectMissing(Permanent):
    """The store has answered that it has no object ``name``."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the store has no object {name}")
        self.name = name


class ObjectExists(Permanent):
    """An object ``name`` exists; it was not replaced."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the store already has an object {name}")
        self.name = name


class Damaged(Permanent):
    """Bytes differ from what was recorded when they were written; the message names the object."""


class Superseded(SnapholdError):
    """The control plane has abandoned this attempt, which must stop and remove what it wrote."""


class SetupError(SnapholdError):
    """The configuration or installation does not allow the service to start or continue."""


def in_full(error: BaseException) -> str:
    """The messages and details of an error and of its causes, for the log."""
    said: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, SnapholdError):
            said += [str(cause), cause.detail]
        else:
            said.append(f"{type(cause).__name__}: {cause}")
        cause = cause.__cause__
    return " <- ".join(text for text in dict.fromkeys(said) if text)
