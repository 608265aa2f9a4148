"""What clients send, as types. A body is turned into a request of the service once, here.

A password becomes its hash while it is being checked: no object behind this module holds one in clear.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainValidator,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

from snaphold.api.request_body import Body
from snaphold.model import Flavor, flavor_from_reference, is_engine_file
from snaphold.names import LONGEST_FILE_NAME, file_name_length
from snaphold.protocol import MAX_DESCRIPTION, DatabaseSpec, UserChange, UserSpec
from snaphold.service.requests import (
    BackupRequest,
    CopyRequest,
    InstanceRequest,
    ScheduleChangeRequest,
    ScheduleRequest,
)

MAX_VOLUME_GB: Final = 65_536
DEFAULT_RETENTION: Final = 2  # automated fulls
_SYSTEM_DATABASES: Final = frozenset({"mysql", "information_schema", "performance_schema", "sys", "lost+found"})
_SYSTEM_USERS: Final = frozenset({"root", "mysql", "mariadb.sys", "mysql.sys", "mysql.session", "public", "os_admin"})
_LONGEST_GRANT: Final = 64  # characters of mysql.db.Db, where wildcards are escaped
_INTERNAL: Final = "snaphold"  # what we make on a server starts with it
_UNFIT: Final = re.compile(r"['\";`,/\\\x00-\x1f\x7f\ud800-\udfff\U00010000-\U0010ffff]")  # MariaDB's identifiers: BMP
_CHARSET: Final = re.compile(r"[A-Za-z0-9_]{1,64}", re.ASCII)
_HOST: Final = re.compile(r"[A-Za-z0-9.:%_-]{1,60}", re.ASCII)


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not contain NUL characters")
    return text


def _some_letter_or_digit(text: str) -> str:
    if not any(character.isalnum() for character in text):
        raise ValueError("must contain at least one letter or digit")
    return text


def _identifier(text: str) -> str:
    if not text or text != text.strip() or _UNFIT.search(text):
        raise ValueError("is empty, starts or ends with a space, or contains characters that are not supported")
    return text


def _database_name(text: str) -> str:
    reserved = text.lower() in _SYSTEM_DATABASES or is_engine_file(text)
    if reserved or text.lower().startswith(("#mysql50#", _INTERNAL)):
        raise ValueError("is reserved")
    if file_name_length(_identifier(text)) > LONGEST_FILE_NAME:
        raise ValueError(
            f"is too long for the server, which keeps it as the name of a directory: {file_name_length(text)} bytes of"
            f" {LONGEST_FILE_NAME}"
        )
    return text


def _grantable(text: str) -> str:
    if len(text) + text.count("_") + text.count("%") > _LONGEST_GRANT:
        raise ValueError("is too long for a grant, in which each _ and % counts twice")
    return text


def _user_name(text: str) -> str:
    if text.lower() in _SYSTEM_USERS or text.lower().startswith(_INTERNAL):
        raise ValueError("is reserved")
    return _identifier(text)


def _charset(text: str) -> str:
    if not _CHARSET.fullmatch(text):
        raise ValueError("must be a name of letters, digits and _")
    return text


def _host(text: str) -> str:
    if not _HOST.fullmatch(text):
        raise ValueError("must be an address or a name, in which % stands for anything")
    return text


def native_hash(password: str) -> str:
    """MariaDB's ``mysql_native_password``: ``*`` and SHA-1 of SHA-1 in upper-case hexadecimal."""
    if not password:
        raise ValueError("must not be empty")
    once = hashlib.sha1(_no_nul(password).encode(), usedforsecurity=False).digest()
    return f"*{hashlib.sha1(once, usedforsecurity=False).hexdigest().upper()}"


def _flavor(reference: object) -> Flavor:
    flavor = flavor_from_reference(reference)
    if flavor is None:
        raise ValueError("names no flavor")
    return flavor


def _last_part(reference: str) -> str:
    return reference.rstrip("/").rsplit("/", 1)[-1]


def _distinct(names: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if names is None else tuple(dict.fromkeys(names))


def _zero_or_one(value: object) -> bool:
    if value not in (0, 1, None):
        raise ValueError("must be 0 or 1")
    return bool(value)


def _number(text: object) -> object:
    """Digits in a string, as some clients send numbers, are a number."""
    return int(text) if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) < 10 else text


NoNul = AfterValidator(_no_nul)
Text = Annotated[str, NoNul]
Reference = Annotated[str, StringConstraints(max_length=255), NoNul]
GivenReference = Annotated[str, StringConstraints(min_length=1, max_length=255), NoNul]
Named = AfterValidator(_some_letter_or_digit)
BackupName = Annotated[str, StringConstraints(min_length=1, max_length=64), NoNul, Named]
InstanceName = Annotated[str, StringConstraints(min_length=1, max_length=255), NoNul, Named]
Description = Annotated[str, StringConstraints(max_length=MAX_DESCRIPTION), NoNul]
DatabaseName = Annotated[str, StringConstraints(min_length=1, max_length=64), AfterValidator(_database_name)]
UserName = Annotated[str, StringConstraints(min_length=1, max_length=32), AfterValidator(_user_name)]
Charset = Annotated[str, AfterValidator(_charset)]
UserHost = Annotated[str, AfterValidator(_host)]
PasswordHash = Annotated[str, AfterValidator(native_hash), WithJsonSchema({"type": "string", "minLength": 1})]
VolumeSize = Annotated[
    int, Field(ge=1, le=MAX_VOLUME_GB, description="GB, as a number or as digits in a string"), BeforeValidator(_number)
]
FlavorReference = Annotated[
    Flavor,
    PlainValidator(_flavor),
    WithJsonSchema(
        {"anyOf": [{"type": "integer"}, {"type": "string"}], "description": "An id, or an href that ends in one."}
    ),
]
ZeroOrOne = Annotated[
    bool, PlainValidator(_zero_or_one), WithJsonSchema({"enum": [0, 1, False, True, None], "default": 0})
]


class Nothing(Body):
    """An empty object."""


class Source(Body):
    """What a backup is taken from."""

    type: Literal["instance", "ha"]
    id: GivenReference


class BackupFields(Body):
    """The backup that is asked for."""

    also_called: ClassVar = {
        "parent_id": ("parent", "parentref", "parentbackup", "parentbackupid", "baseid"),
        "copy_to": ("copytoregion", "copytoregions", "copyregion", "copyregions"),
        "instance": ("instanceid", "instanceref"),
        "incremental": ("increment", "isincremental"),
    }

    name: BackupName
    instance: Reference | None = None
    description: Description | None = None
    parent_id: GivenReference | None = None
    source: Source | None = None
    incremental: ZeroOrOne = False
    copy_to: list[GivenReference] | None = None
    restore_from: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.restore_from is None and not self.instance and self.source is None:
            raise ValueError("needs an instance, or a source")
        if (
            self.instance
            and self.source is not None
            and (self.source.type, self.source.id)
            != (
                "instance",
                self.instance,
            )
        ):
            raise ValueError("names an instance and a source that differ")
        return self


class BackupCreate(Body):
    """``POST /backups``."""

    backup: BackupFields

    def request(self, user: str) -> BackupRequest:
        """As the service takes it."""
        asked = self.backup
        source = asked.source or Source(type="instance", id=asked.instance or "-")
        return BackupRequest(
            name=asked.name,
            description=asked.description,
            source_type=source.type,
            source_id=source.id,
            parent_id=asked.parent_id,
            incremental=asked.incremental,
            copy_to=_distinct(asked.copy_to),
            asked_by=user,
        )


class CopyBackup(Body):
    """Where a copy goes, and what it is called there."""

    also_called: ClassVar = {
        "target_backup_region": ("region", "targetregion"),
        "name": ("backupname",),
    }

    target_backup_region: GivenReference
    name: BackupName | None = None
    description: Description | None = None

    def request(self, user: str) -> CopyRequest:
        """As the service takes it."""
        return CopyRequest(
            region=self.target_backup_region, name=self.name, description=self.description, asked_by=user
        )


class Consolidate(Body):
    """The full backup that an increment and what it depends on become."""

    also_called: ClassVar = {
        "name": ("backupname",),
    }

    name: BackupName | None = None


class Action(Body):
    """An object of exactly one key: what is to be done."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if len(self.model_fields_set) != 1:
            known = ", ".join(field.alias or name for name, field in type(self).model_fields.items())
            raise ValueError(f"must name exactly one action of {known}")
        return self

    @property
    def name(self) -> str:
        """The action's key."""
        (name,) = self.model_fields_set
        return type(self).model_fields[name].alias or name


class Verify(Body):
    """How far the verification goes: the objects are read back, or brought up as a throw-away server."""

    also_called: ClassVar = {
        "level": ("mode", "type"),
    }

    level: Literal["objects", "restore"] = "objects"


class BackupAction(Action):
    """``POST /backups/{id}/action``."""

    copy_backup: CopyBackup | None = Field(None, alias="copy-backup")
    consolidate: Consolidate | None = None
    verify: Verify | None = None
    mend: Nothing | None = None
    cancel: Nothing | None = None

    @model_validator(mode="after")
    def _copy_needs_a_region(self) -> Self:
        if "copy_backup" in self.model_fields_set and self.copy_backup is None:
            raise ValueError("copy-backup must be an object")
        return self


class Volume(Body):
    """How much an instance may keep."""

    size: VolumeSize


class DatastoreChoice(Body):
    """What an instance runs: names or ids."""

    also_called: ClassVar = {
        "version": ("versionid", "datastoreversion", "datastoreversionid"),
        "type": ("datastoretype", "typeid"),
    }

    type: GivenReference | None = None
    version: GivenReference | None = None


class DatabaseFields(Body):
    """A database that is to be made."""

    also_called: ClassVar = {
        "character_set": ("charset", "encoding"),
        "collate": ("collation",),
    }

    name: DatabaseName
    character_set: Charset | None = None
    collate: Charset | None = None

    def spec(self) -> DatabaseSpec:
        """As a host takes it."""
        return DatabaseSpec(name=self.name, character_set=self.character_set, collate=self.collate)


class DatabaseReference(Body):
    """A database that a user may use."""

    name: Annotated[DatabaseName, AfterValidator(_grantable)]


class UserFields(Body):
    """A database user that is to be made."""

    also_called: ClassVar = {
        "host": ("hostname",),
        "password": ("pass", "passwd"),
        "databases": ("grants",),
    }

    name: UserName
    password_hash: PasswordHash = Field(alias="password", repr=False)
    host: UserHost | None = None
    databases: list[DatabaseReference] | None = None

    def spec(self) -> UserSpec:
        """As a host takes it."""
        names = dict.fromkeys(database.name for database in self.databases or ())
        return UserSpec(name=self.name, host=self.host or "%", password_hash=self.password_hash, databases=list(names))


def _distinct_databases(databases: list[DatabaseFields]) -> list[DatabaseFields]:
    if len({database.name for database in databases}) != len(databases):
        raise ValueError("names a database twice")
    return databases


def _distinct_users(users: list[UserFields]) -> list[UserFields]:
    if len({(user.name, user.host or "%") for user in users}) != len(users):
        raise ValueError("names a user twice")
    return users


Databases = Annotated[list[DatabaseFields], AfterValidator(_distinct_databases)]
Users = Annotated[list[UserFields], AfterValidator(_distinct_users)]


class DatabasesCreate(Body):
    """``POST /instances/{id}/databases``."""

    databases: Annotated[Databases, Field(min_length=1)]


class UsersCreate(Body):
    """``POST /instances/{id}/users``."""

    users: Annotated[Users, Field(min_length=1)]


class UserChangeFields(Body):
    """What is to be different about a user; what is left out stays."""

    also_called: ClassVar = {"host": ("hostname",), "password": ("pass", "passwd")}

    name: UserName | None = None
    password_hash: PasswordHash | None = Field(None, alias="password", repr=False)
    host: UserHost | None = None

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.name is None and self.password_hash is None and self.host is None:
            raise ValueError("needs a name, a password or a host")
        return self


class UserChanged(Body):
    """``PUT /instances/{id}/users/{name}``."""

    user: UserChangeFields

    def change(self, name: str, host: str) -> UserChange:
        """As a host takes it, of the user ``name@host``."""
        asked = self.user
        return UserChange(
            name=name, host=host, new_name=asked.name, new_host=asked.host, password_hash=asked.password_hash
        )


class UserPassword(Body):
    """A user and its new password."""

    also_called: ClassVar = {"host": ("hostname",), "password": ("pass", "passwd")}

    name: UserName
    password_hash: PasswordHash = Field(alias="password", repr=False)
    host: UserHost | None = None

    def change(self) -> UserChange:
        """As a host takes it."""
        return UserChange(name=self.name, host=self.host or "%", password_hash=self.password_hash)


def _distinct_passwords(users: list[UserPassword]) -> list[UserPassword]:
    if len({(user.name, user.host or "%") for user in users}) != len(users):
        raise ValueError("names a user twice")
    return users


class PasswordsChange(Body):
    """``PUT /instances/{id}/users``."""

    users: Annotated[list[UserPassword], Field(min_length=1), AfterValidator(_distinct_passwords)]


class UserGrants(Body):
    """``PUT /instances/{id}/users/{name}/databases``."""

    databases: Annotated[list[DatabaseReference], Field(min_length=1)]


class RestorePoint(Body):
    """The backup that an instance is restored from."""

    also_called: ClassVar = {
        "backupRef": ("backup", "backupid", "id"),
    }

    backup_ref: Annotated[GivenReference, AfterValidator(_last_part)] = Field(alias="backupRef")


class InstanceFields(Body):
    """The instance that is asked for."""

    also_called: ClassVar = {
        "restorePoint": ("restore", "restorefrom", "backup", "backupref", "backupid"),
        "flavorRef": ("flavor", "flavorid"),
        "volume": ("size", "volumesize"),
        "replica_of": ("slaveof", "masterid"),
        "datastore": ("datastoreversion", "datastoretype"),
    }

    flavor: FlavorReference = Field(alias="flavorRef")
    name: InstanceName | None = None
    volume: Volume | None = None
    datastore: DatastoreChoice | None = None
    databases: Databases | None = None
    users: Users | None = None
    restore_point: RestorePoint | None = Field(None, alias="restorePoint")
    replica_of: GivenReference | None = None


class InstanceCreate(Body):
    """``POST /instances``."""

    instance: InstanceFields

    def request(self) -> InstanceRequest:
        """As the service takes it."""
        asked = self.instance
        datastore = asked.datastore or DatastoreChoice()
        return InstanceRequest(
            name=asked.name,
            flavor=asked.flavor,
            volume_gb=None if asked.volume is None else asked.volume.size,
            datastore=datastore.type,
            version=datastore.version,
            databases=[database.spec() for database in asked.databases or ()],
            users=[user.spec() for user in asked.users or ()],
            backup_ref=None if asked.restore_point is None else asked.restore_point.backup_ref,
            replica_of=asked.replica_of,
        )


class InstanceChangeFields(Body):
    """The instance's new name."""

    name: InstanceName


class InstanceChange(Body):
    """``PATCH /instances/{id}``."""

    instance: InstanceChangeFields


class Resize(Body):
    """A larger volume, or another flavor."""

    also_called: ClassVar = {
        "flavorRef": ("flavor", "flavorid"),
        "volume": ("size", "volumesize"),
    }

    volume: Volume | None = None
    flavor: FlavorReference | None = Field(None, alias="flavorRef")

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.volume is None) == (self.flavor is None):
            raise ValueError("needs a volume or a flavorRef, and not both")
        return self


class InstanceAction(Action):
    """``POST /instances/{id}/action``."""

    restart: Nothing | None = None
    resize: Resize | None = None
    stop: Nothing | None = None
    start: Nothing | None = None
    reset_status: Nothing | None = None

    @model_validator(mode="after")
    def _resize_needs_a_size(self) -> Self:
        if "resize" in self.model_fields_set and self.resize is None:
            raise ValueError("resize must be an object")
        return self


class Member(Body):
    """One server of a group."""

    also_called: ClassVar = {
        "flavorRef": ("flavor", "flavorid"),
        "volume": ("size", "volumesize"),
    }

    flavor: FlavorReference = Field(alias="flavorRef")
    volume: Volume
    name: InstanceName | None = None


class GroupFields(Body):
    """The HA group that is asked for."""

    name: InstanceName
    datastore: DatastoreChoice | None = None
    replica_source: Annotated[list[Member], Field(min_length=1, max_length=1)]
    replicas: Annotated[list[Member], Field(min_length=1, max_length=2)]


class GroupCreate(Body):
    """``POST /ha``."""

    ha: GroupFields


class GroupAction(Action):
    """``POST /ha/{id}/action``."""

    add_replica: dict[str, Any] | None = None
    remove_replica: Any = None
    restart: Nothing | None = None


def _names(text: object) -> object:
    return [name.strip() for name in text.split(",")] if isinstance(text, str) else text


def _true(value: object) -> bool:
    if value in ("true", "false"):
        return value == "true"
    if value is None or isinstance(value, bool):
        return bool(value)
    raise ValueError('must be "true" or "false"')


DayOfWeek = Annotated[int, Field(ge=0, le=7, description="Sunday 0; 7: each one is full."), BeforeValidator(_number)]
Hour = Annotated[int, Field(ge=0, le=23, description="UTC"), BeforeValidator(_number)]
Minute = Annotated[int, Field(ge=0, le=59), BeforeValidator(_number)]
Retention = Annotated[int, Field(ge=2, le=1000), BeforeValidator(_number)]
Regions = Annotated[list[GivenReference], BeforeValidator(_names)]
RunNow = Annotated[
    bool, PlainValidator(_true), WithJsonSchema({"enum": ["true", "false", True, False, None], "default": "false"})
]


class ScheduleFields(Body):
    """When backups are taken."""

    also_called: ClassVar = {
        "copy_to": ("copytoregion", "copytoregions", "copyregion", "copyregions"),
        "instance_id": ("instance",),
        "source_id": ("source",),
        "day_of_week": ("day", "weekday"),
        "full_backup_retention": ("retention", "fullretention"),
    }

    action: Literal["backup"]
    instance_id: GivenReference | None = None
    source_id: GivenReference | None = None
    source_type: Literal["instance", "ha"] | None = None
    day_of_week: DayOfWeek
    hour: Hour
    minute: Minute
    full_backup_retention: Retention | None = None
    copy_to: Regions | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.instance_id is None and (self.source_id is None or self.source_type is None):
            raise ValueError("needs an instance_id, or a source_id and its source_type")
        if self.instance_id is not None and (
            self.source_id not in (None, self.instance_id) or self.source_type == "ha"
        ):
            raise ValueError("names an instance and a source that differ")
        return self


class ScheduleCreate(Body):
    """``POST /schedules``."""

    schedule: ScheduleFields

    def request(self, user: str) -> ScheduleRequest:
        """As the service takes it."""
        asked = self.schedule
        return ScheduleRequest(
            source_type="instance" if asked.source_type is None else asked.source_type,
            source_id=asked.instance_id or asked.source_id or "-",
            day_of_week=asked.day_of_week,
            hour=asked.hour,
            minute=asked.minute,
            full_backup_retention=asked.full_backup_retention or DEFAULT_RETENTION,
            copy_to=_distinct(asked.copy_to),
            asked_by=user,
        )


class ScheduleChangeFields(Body):
    """What is to be different about a schedule; what is left out, or null, stays. ``copy_to`` []: copies no more."""

    also_called: ClassVar = {
        "copy_to": ("copytoregion", "copytoregions", "copyregion", "copyregions"),
        "instance_id": ("instance",),
        "source_id": ("source",),
        "day_of_week": ("day", "weekday"),
        "full_backup_retention": ("retention", "fullretention"),
        "run_now": ("run", "now"),
    }

    action: Literal["backup"] | None = None
    instance_id: GivenReference | None = None
    source_id: GivenReference | None = None
    day_of_week: DayOfWeek | None = None
    hour: Hour | None = None
    minute: Minute | None = None
    full_backup_retention: Retention | None = None
    copy_to: Regions | None = None
    run_now: RunNow = False

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if None not in (self.instance_id, self.source_id) and self.instance_id != self.source_id:
            raise ValueError("names an instance and a source that differ")
        return self


class ScheduleChange(Body):
    """``PUT /schedules/{id}``."""

    schedule: ScheduleChangeFields

    def request(self, user: str) -> ScheduleChangeRequest:
        """As the service takes it."""
        asked = self.schedule
        return ScheduleChangeRequest(
            source_id=asked.instance_id or asked.source_id,
            day_of_week=asked.day_of_week,
            hour=asked.hour,
            minute=asked.minute,
            full_backup_retention=asked.full_backup_retention,
            copy_to=_distinct(asked.copy_to),
            run_now=asked.run_now,
            asked_by=user,
        )


class PasswordCredentials(Body):
    """A user and its password."""

    username: Text
    password: str = Field(repr=False)


class ApiKeyCredentials(Body):
    """A user and its API key."""

    username: Text
    api_key: str = Field(alias="apiKey", repr=False)


class TokenCredentials(Body):
    """A token that is good already."""

    id: str = Field(repr=False)


class AuthFieldsV2(Body):
    """Who logs in, and to which account."""

    password: PasswordCredentials | None = Field(None, alias="passwordCredentials")
    api_key: ApiKeyCredentials | None = Field(None, alias="RAX-KSKEY:apiKeyCredentials")
    token: TokenCredentials | None = None
    tenant_name: Text | None = Field(None, alias="tenantName")
    tenant_id: Text | None = Field(None, alias="tenantId")

    @model_validator(mode="after")
    def _some_credentials(self) -> Self:
        if self.password is None and self.api_key is None and self.token is None:
            raise ValueError("needs passwordCredentials or RAX-KSKEY:apiKeyCredentials")
        return self


class AuthV2(Body):
    """``POST /v2.0/tokens``."""

    auth: AuthFieldsV2


class PasswordUser(Body):
    """A user, by name or by id (which is its name), and its password."""

    name: Text | None = None
    id: Text | None = None
    password: str = Field(repr=False)

    @model_validator(mode="after")
    def _named(self) -> Self:
        if self.name is None and self.id is None:
            raise ValueError("needs a name or an id")
        return self


class PasswordMethod(Body):
    """The method ``password``."""

    user: PasswordUser


class AuthIdentity(Body):
    """How the caller verifies who it is."""

    methods: Annotated[list[str], Field(min_length=1)]
    password: PasswordMethod | None = None
    token: TokenCredentials | None = None

    @model_validator(mode="after")
    def _method_is_there(self) -> Self:
        if "password" in self.methods and self.password is not None:
            return self
        if "token" in self.methods and self.token is not None:
            return self
        raise ValueError("needs the method password or token, and its credentials")


class ProjectScope(Body):
    """An account, by name or by id, which are the same."""

    name: Text | None = None
    id: Text | None = None


class Scope(Body):
    """What the token is for."""

    project: ProjectScope | None = None


class AuthFieldsV3(Body):
    """Who logs in, and to which account."""

    identity: AuthIdentity
    scope: Annotated[Scope | None, BeforeValidator(lambda scope: None if scope == "unscoped" else scope)] = None


class AuthV3(Body):
    """``POST /v3/auth/tokens``."""

    auth: AuthFieldsV3
