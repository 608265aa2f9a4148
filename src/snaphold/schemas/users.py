"""Database users of an instance, their rights, and root (contract, section 4).

The types hold passwords as ``SecretStr``, which no representation and no log shows.
"""

import re
from typing import Annotated, ClassVar, Final, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, StringConstraints, WithJsonSchema, model_validator

from snaphold.schemas.base import AnswerSchema, Link, RequestSchema, Sometimes
from snaphold.schemas.databases import INTERNAL_PREFIX, DatabaseName, DatabaseReference, identifier
from snaphold.schemas.fields import no_nul

ANY_HOST: Final = "%"
_SYSTEM_USERS: Final = frozenset({"root", "mysql", "mariadb.sys", "mysql.sys", "mysql.session", "public", "os_admin"})
_HOST: Final = re.compile(r"[A-Za-z0-9.:%_-]{1,60}", re.ASCII)


def _user_name(text: str) -> str:
    if text.lower().startswith(INTERNAL_PREFIX):
        raise ValueError("is reserved for the service")
    if text.lower() in _SYSTEM_USERS:
        raise ValueError("is reserved for the database server")
    return identifier(text)


def _host(text: str) -> str:
    if not _HOST.fullmatch(text):
        raise ValueError("must be an address or a name, in which % stands for anything")
    return text


def _password(password: SecretStr) -> SecretStr:
    if not no_nul(password.get_secret_value()):
        raise ValueError("must not be empty")
    return password


ValidUserName = Annotated[str, StringConstraints(min_length=1, max_length=32), AfterValidator(_user_name)]
UserHost = Annotated[str, AfterValidator(_host)]
Password = Annotated[SecretStr, AfterValidator(_password), WithJsonSchema({"type": "string", "minLength": 1})]


class UserFields(RequestSchema):
    """A database user to create."""

    also_called: ClassVar = {
        "host": ("hostname",),
        "password": ("pass", "passwd"),
        "databases": ("grants",),
    }

    name: ValidUserName
    password: Password
    host: UserHost | None = None
    databases: list[DatabaseReference] | None = None


class UserChangeFields(RequestSchema):
    """The changes to a user. What is absent stays as it is."""

    also_called: ClassVar = {"host": ("hostname",), "password": ("pass", "passwd")}

    name: ValidUserName | None = None
    password: Password | None = None
    host: UserHost | None = None

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.name is None and self.password is None and self.host is None:
            raise ValueError("needs a name, a password or a host")
        return self


class UserChanged(RequestSchema):
    """``PUT /instances/{id}/users/{name}``."""

    user: UserChangeFields


class UserPassword(RequestSchema):
    """A user and its new password."""

    also_called: ClassVar = {"host": ("hostname",), "password": ("pass", "passwd")}

    name: ValidUserName
    password: Password
    host: UserHost | None = None


def _distinct_users(users: list[UserFields]) -> list[UserFields]:
    if len({(user.name, user.host or ANY_HOST) for user in users}) != len(users):
        raise ValueError("names a user twice")
    return users


def _distinct_passwords(users: list[UserPassword]) -> list[UserPassword]:
    if len({(user.name, user.host or ANY_HOST) for user in users}) != len(users):
        raise ValueError("names a user twice")
    return users


Users = Annotated[list[UserFields], AfterValidator(_distinct_users)]


class UsersCreate(RequestSchema):
    """``POST /instances/{id}/users``."""

    users: Annotated[Users, Field(min_length=1)]


class PasswordsChange(RequestSchema):
    """``PUT /instances/{id}/users``."""

    users: Annotated[list[UserPassword], Field(min_length=1), AfterValidator(_distinct_passwords)]


class UserGrants(RequestSchema):
    """``PUT /instances/{id}/users/{name}/databases``."""

    databases: Annotated[list[DatabaseReference], Field(min_length=1)]


class UserAnswer(AnswerSchema):
    """A database user that clients created."""

    name: str
    host: str
    databases: list[DatabaseName]


class UserShown(AnswerSchema):
    """One user."""

    user: UserAnswer


class UserList(AnswerSchema):
    """A page of users, by name."""

    users: list[UserAnswer]
    links: Sometimes[list[Link]] = None


class GrantList(AnswerSchema):
    """The databases that a user may use."""

    databases: list[DatabaseName]


class RootShown(AnswerSchema):
    """Whether clients may log in as root."""

    rootEnabled: bool  # noqa: N815 - the contract's name


class RootUser(AnswerSchema):
    """The user root. Its password is shown only in this answer."""

    name: Literal["root"]
    password: str = Field(repr=False)


class RootEnabled(AnswerSchema):
    """The answer to enabling root."""

    user: RootUser
