"""What can go wrong, sorted by who must act.

    SnapholdError
    ├── Refused             the caller: change the request (each class is one fault of the contract, section 8)
    │   ├── BadRequest 400 · Unauthorized 401 · Forbidden 403 · NotFound 404 · MethodNotAllowed 405
    │   ├── OverLimit 413 · UnsupportedMediaType 415 · Unprocessable 422 · NotOffered 501
    ├── Unavailable 503     the caller, later: a host or a store is silent now
    ├── Transient           the queue: run it again
    ├── Permanent           nobody: it failed, and the text is the reason that a person reads
    ├── Superseded           this attempt: stop, write nothing, remove what you wrote
    └── SetupError          the operator: one clear line, exit status 1

A foreign exception is mapped to one of these in the one module that imports its library, cause kept.
"""

from typing import ClassVar, Final, Self

_LONGEST_NAME: Final = 255  # characters that a message repeats


class SnapholdError(Exception):
    """The root: whatever this project raises on purpose.

    The message is for people, tenants among them: what happened, in their words. ``detail`` is for the log only: paths
    of this machine, what a tool has printed, names of internal accounts.
    """

    def __init__(self, message: str = "", *, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail


class Refused(SnapholdError):
    """The request cannot be served as it is; the message is shown to the caller."""

    code: ClassVar[int] = 400
    fault: ClassVar[str] = "badRequest"


class BadRequest(Refused):
    """Elements are missing, or have values that are not allowed."""


class Unauthorized(Refused):
    """No token, an unknown one, or an expired one."""

    code = 401
    fault = "unauthorized"


class Forbidden(Refused):
    """The token is good, but not for this."""

    code = 403
    fault = "forbidden"


class NotFound(Refused):
    """No such thing in this account (a foreign thing is none either)."""

    code = 404
    fault = "itemNotFound"

    @classmethod
    def of(cls, kind: str, name: object) -> Self:
        """``Instance 'x' cannot be found.``: the form of every message that names what was asked for."""
        return cls(f"{kind} '{str(name)[:_LONGEST_NAME]}' cannot be found.")


class MethodNotAllowed(Refused):
    """The route exists, the method does not. ``allow`` lists those that do."""

    code = 405
    fault = "badMethod"

    def __init__(self, message: str, allow: str) -> None:
        super().__init__(message)
        self.allow = allow


class OverLimit(Refused):
    """Too large, too many, or too often. ``retry_after_s`` is None where waiting does not help."""

    code = 413
    fault = "overLimit"

    def __init__(self, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s

    @classmethod
    def within_a_minute(cls, limit: int, wait_us: int) -> Self:
        """More than ``limit`` requests of a kind; one more is allowed in ``wait_us``."""
        seconds = -(-wait_us // 1_000_000)
        return cls(f"Only {limit} of these requests are allowed in a minute. Retry in {seconds} s.", seconds)


class UnsupportedMediaType(Refused):
    """A body in a format other than JSON."""

    code = 415
    fault = "badMediaType"


class Unprocessable(Refused):
    """Well-formed, but not in the present state of things."""

    code = 422
    fault = "unprocessableEntity"


class NotOffered(Refused):
    """Valid, but this deployment does not do it."""

    code = 501
    fault = "notImplemented"


class Unavailable(SnapholdError):
    """A part that must answer now is silent; nothing was changed."""

    code: ClassVar[int] = 503
    fault: ClassVar[str] = "serviceUnavailable"


class Transient(SnapholdError):
    """A passing fault: the same step may succeed when it is run again."""


class Permanent(SnapholdError):
    """Running it again would not help. The message is the reason that a person reads."""


class ObjectMissing(Permanent):
    """The store answered: it has no such object. ``name`` says which."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the store has no object {name}")
        self.name = name


class ObjectExists(Permanent):
    """``publish`` found the name taken and replaced nothing."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the store already has an object {name}")
        self.name = name


class Damaged(Permanent):
    """Bytes differ from what was recorded when they were written; the message names the object."""


class Superseded(SnapholdError):
    """The control plane has given this attempt up: it may neither report nor leave anything behind."""


class SetupError(SnapholdError):
    """The service cannot start or go on as it is set up."""


def in_full(error: BaseException) -> str:
    """All that is known of an error, for the log: its message, its detail, and the same of what caused it."""
    said: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, SnapholdError):
            said += [str(cause), cause.detail]
        else:
            said.append(f"{type(cause).__name__}: {cause}")
        cause = cause.__cause__
    return " <- ".join(text for text in dict.fromkeys(said) if text)
