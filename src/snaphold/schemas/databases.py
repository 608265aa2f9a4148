"""Databases of an instance (contract, section 4)."""

import re
from typing import Annotated, ClassVar, Final

from pydantic import AfterValidator, Field, StringConstraints

from snaphold.model import is_engine_file
from snaphold.names import LONGEST_FILE_NAME, file_name_length
from snaphold.schemas.base import AnswerSchema, Link, RequestSchema, Sometimes

INTERNAL_PREFIX: Final = "snaphold"  # of the databases and users that the service itself creates on a server
_SYSTEM_DATABASES: Final = frozenset({"mysql", "information_schema", "performance_schema", "sys", "lost+found"})
_MAX_GRANT_LENGTH: Final = 64  # characters of mysql.db.Db, where wildcards are escaped
_UNFIT: Final = re.compile(r"['\";`,/\\\x00-\x1f\x7f\ud800-\udfff\U00010000-\U0010ffff]")  # MariaDB's identifiers: BMP
_CHARSET: Final = re.compile(r"[A-Za-z0-9_]{1,64}", re.ASCII)


def identifier(text: str) -> str:
    """Raise ``ValueError`` if the text cannot be the name of a database or of a user."""
    if not text or text != text.strip() or _UNFIT.search(text):
        raise ValueError("is empty, starts or ends with a space, or contains characters that are not supported")
    return text


def _database_name(text: str) -> str:
    if text.lower().startswith(INTERNAL_PREFIX):
        raise ValueError("is reserved for the service")
    if text.lower() in _SYSTEM_DATABASES or text.lower().startswith("#mysql50#") or is_engine_file(text):
        raise ValueError("is reserved for the database server")
    if file_name_length(identifier(text)) > LONGEST_FILE_NAME:
        raise ValueError(
            f"is too long for the server, which keeps it as the name of a directory: {file_name_length(text)} bytes of"
            f" {LONGEST_FILE_NAME}"
        )
    return text


def _grantable(text: str) -> str:
    if len(text) + text.count("_") + text.count("%") > _MAX_GRANT_LENGTH:
        raise ValueError("is too long for a grant, in which each _ and % counts twice")
    return text


def _charset(text: str) -> str:
    if not _CHARSET.fullmatch(text):
        raise ValueError("must be a name of letters, digits and _")
    return text


ValidDatabaseName = Annotated[str, StringConstraints(min_length=1, max_length=64), AfterValidator(_database_name)]
Charset = Annotated[str, AfterValidator(_charset)]


class DatabaseFields(RequestSchema):
    """A database to create."""

    also_called: ClassVar = {
        "character_set": ("charset", "encoding"),
        "collate": ("collation",),
    }

    name: ValidDatabaseName
    character_set: Charset | None = None
    collate: Charset | None = None


class DatabaseReference(RequestSchema):
    """A database that a user may use."""

    name: Annotated[ValidDatabaseName, AfterValidator(_grantable)]


def _distinct_databases(databases: list[DatabaseFields]) -> list[DatabaseFields]:
    if len({database.name for database in databases}) != len(databases):
        raise ValueError("names a database twice")
    return databases


Databases = Annotated[list[DatabaseFields], AfterValidator(_distinct_databases)]


class DatabasesCreate(RequestSchema):
    """``POST /instances/{id}/databases``."""

    databases: Annotated[Databases, Field(min_length=1)]


class DatabaseAnswer(AnswerSchema):
    """A database that clients created."""

    name: str
    character_set: Sometimes[str] = None
    collate: Sometimes[str] = None


class DatabaseList(AnswerSchema):
    """A page of databases, by name."""

    databases: list[DatabaseAnswer]
    links: Sometimes[list[Link]] = None


class DatabaseName(AnswerSchema):
    """A database that a user may use."""

    name: str
