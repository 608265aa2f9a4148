"""Names in requests: of databases, users and regions."""

from collections.abc import Sequence

from pydantic import TypeAdapter, ValidationError

from snaphold.errors import NotFound


def distinct(names: Sequence[str] | None) -> tuple[str, ...] | None:
    """Each name once, in the given order. None stays None."""
    return None if names is None else tuple(dict.fromkeys(names))


def check_name(form: TypeAdapter[str], name: str, not_found: NotFound) -> None:
    """Raise ``not_found`` for a name that clients cannot have created, such as a system database's."""
    try:
        form.validate_python(name)
    except ValidationError:
        raise not_found from None


def split_user(name: str) -> tuple[str, str]:
    """A user's name and host from ``user``, ``user@`` or ``user@host``. A missing host is ``%``."""
    user, at, host = name.rpartition("@")
    if not at:
        return name, "%"
    return user, host or "%"
