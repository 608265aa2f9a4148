"""The settings of a process: one frozen object, units in the names.

A setting is taken from its flag, else from the file named by ``--config`` (TOML), else from the environment variable
``SNAPHOLD_<NAME>``, else it has the default below. Unknown settings are refused. docs/reference/settings.md and
docs/reference/snaphold.example.toml are generated from this module.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from snaphold.errors import SetupError

PREFIX = "SNAPHOLD_"
FILE_ONLY: Final = ("peers",)  # neither flags nor environment variables
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")  # of a URL, or of another kind of store
LEVELS = {"gzip": range(4), "zstd": range(1, 20)}  # compression levels


def _local(value: object) -> object:
    if isinstance(value, (str, Path)):
        if _SCHEME.match(str(value)):
            raise ValueError(f"{str(value)!r} is a URL; only a path of this machine is allowed (./ before a colon)")
        if not str(value).strip() or "\0" in str(value):
            raise ValueError("it is empty or not a path")
    return value


LocalPath = Annotated[Path, BeforeValidator(_local)]


class PeerSettings(BaseModel):
    """A region of another deployment that this one is joined with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str = Field(
        pattern=r"^https?://[^/\s]+/?$", description="the endpoint of its API; use https on a network that others share"
    )
    secret_file: LocalPath = Field(
        description="a file with the secret that both deployments share, at least 20 characters (openssl rand -hex 32)"
    )
    store_dir: LocalPath | None = Field(
        None,
        description="the directory of its store, if it is mounted here; default: the store is used over the peer's API",
    )


class Settings(BaseModel):
    """Every setting of an operator."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    state_dir: LocalPath | None = Field(None, description="the directory of databases, instances and secrets")
    store_dir: LocalPath | None = Field(
        None,
        description="the directory of the object stores, with a subdirectory for each region; default: "
        "regions/NAME/store in the state directory",
    )
    region: list[str] = Field([], description="a region to serve, as NAME=ADDRESS:PORT; repeatable")
    public_url: str | None = Field(None, description="the endpoint that clients use, if it is not http://ADDRESS:PORT")
    engine_dir: LocalPath | None = Field(
        None,
        description="the root directory of an unpacked MariaDB; default: the one that `make setup` or the system "
        "has installed",
    )
    encryption_key_file: LocalPath | None = Field(
        None,
        description="a key file of MariaDB's file_key_management. Servers encrypt InnoDB's tables and log with it, and "
        "their backups can be restored only with the same keys; default: nothing is encrypted",
    )
    instance_networks: list[str] = Field(
        ["127.77.0.0/16"], description="networks from which each instance gets its own address"
    )
    instance_domain: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$",
        max_length=200,
        description="the domain of the instances' hostnames; the operator's name server must resolve them; default: an "
        "instance's hostname is its address",
    )
    instance_port: int = Field(3306, ge=1, le=65535, description="the port of every instance")
    instance_outgoing_ports: list[Annotated[int, Field(ge=1, le=65535)]] = Field(
        [3306],
        description="TCP ports that an instance's server may connect to, for replication; enforced on Linux 6.7 "
        "and later",
    )
    shared_system_user: Literal["warn", "refuse"] | None = Field(
        None,
        description="what to do, without root, when a second account creates an instance: warn (default of serve) or "
        "refuse (default of agent)",
    )
    first_instance_uid: int = Field(
        310_000, ge=1000, description="with root: the first of the 100,000 system user ids that instances get"
    )
    codec: Literal["gzip", "zstd"] = Field("gzip", description="the compression of backups: gzip or zstd")
    compression_level: int = Field(1, description="the compression level: 0 to 3 for gzip (isal), 1 to 19 for zstd")
    compression_threads: int = Field(0, ge=0, description="threads that compress and decompress; 0: one for each core")
    max_backup_mb_per_s: float = Field(
        0,
        ge=0,
        allow_inf_nan=False,
        description="the most MB (1,000,000 bytes) that one backup reads from its tool each second; 0: no limit. Pages "
        "that an increment's tool reads but does not copy do not count, nor does what it copies while it blocks DDL "
        "and writes to MyISAM tables",
    )
    niceness: int = Field(
        10, ge=0, le=19, description="the niceness, 0 to 19, of the tools and threads that back up and restore"
    )
    io_priority: Literal["normal", "low", "idle"] = Field(
        "normal", description="their disk priority: normal, low, or idle (only when nothing else uses the disk)"
    )
    lease_s: float = Field(
        30, gt=0, description="seconds without a sign of the agent after which its task is abandoned"
    )
    renew_s: float = Field(10, gt=0, description="seconds between renewals of a lease")
    question_timeout_s: float = Field(15, gt=0, description="seconds that a request waits for a host's answer")
    lock_wait_timeout_s: float = Field(
        60, gt=0, description="seconds that a backup waits for a client to release a table lock"
    )
    verify_after_backup: Literal["none", "objects", "restore"] = Field(
        "objects",
        description="the verification that a backup must pass to be COMPLETED: none; objects: its objects are read "
        "back; restore: it is also restored to a temporary server",
    )
    verify_wait_s: float = Field(
        600,
        ge=0,
        description="seconds that the store may fail to answer while a new backup is read back, before it is FAILED",
    )
    start_timeout_s: float = Field(120, gt=0, description="seconds that a database server may take to start")
    max_running_backups_per_account: int = Field(
        1, ge=0, description="the most backups of one account that run at a time; 0: no limit"
    )
    max_backups_per_account: int = Field(0, ge=0, description="the most backups of one account; 0: no limit")
    max_instances_per_account: int = Field(0, ge=0, description="the most instances of one account; 0: no limit")
    max_volume_gb_per_account: int = Field(
        0, ge=0, description="the most GB of all volumes of one account together; 0: no limit"
    )
    backup_creates_per_minute: int = Field(
        100, ge=0, description="the most backups that an account may create each minute; 0: no limit"
    )
    backup_deletes_per_minute: int = Field(
        20, ge=0, description="the most backups that an account may delete each minute; 0: no limit"
    )
    backup_actions_per_minute: int = Field(
        20, ge=0, description="the most actions of an account on backups each minute; 0: no limit"
    )
    instance_creates_per_minute: int = Field(
        20, ge=0, description="the most instances that an account may create or restore each minute; 0: no limit"
    )
    instance_deletes_per_minute: int = Field(
        20, ge=0, description="the most instances that an account may delete each minute; 0: no limit"
    )
    instance_actions_per_minute: int = Field(
        5, ge=0, description="the most actions of an account on instances each minute; 0: no limit"
    )
    instance_renames_per_minute: int = Field(
        20, ge=0, description="the most instances that an account may rename each minute; 0: no limit"
    )
    schedule_writes_per_minute: int = Field(
        20, ge=0, description="the most changes of schedules by an account each minute; 0: no limit"
    )
    user_writes_per_minute: int = Field(
        50,
        ge=0,
        description="the most changes of databases, users, rights and root by an account each minute; 0: no limit",
    )
    logins_per_minute: int = Field(
        20,
        ge=0,
        description="the most attempts to log in as one user each minute, in all regions together; 0: no limit",
    )
    reads_per_minute: int = Field(0, ge=0, description="the most GET requests of an account each minute; 0: no limit")
    rate_factor: float | None = Field(
        None, ge=0, description="a factor of all these rates (default of serve: 10, of api: 1); 0: no rate is limited"
    )
    max_body_bytes: int = Field(1 << 20, ge=1024, description="the most bytes of a request body")
    max_connections: int = Field(
        1000, ge=16, description="the most connections of an API process; fewer if its limit of open files is lower"
    )
    max_connections_per_client: int = Field(
        0, ge=0, description="the most of these from one client address; 0: half of them"
    )
    request_timeout_s: float = Field(
        20,
        gt=0,
        description="seconds in which a request's header must arrive; and its body, with one more second for each "
        "4096 bytes",
    )
    store_timeout_s: float = Field(5, gt=0, description="seconds that a request waits for the object store")
    token_lifetime_s: int = Field(86_400, ge=60, description="seconds until a token expires")
    sweep_interval_s: float = Field(
        300, gt=0, description="seconds between sweeps of what ended attempts left in the store"
    )
    sweep_grace_s: float = Field(60, ge=0, description="seconds after the end of an attempt before it is swept again")
    state_backup_interval_s: float = Field(
        86_400, ge=0, description="seconds between two saves of accounts, hosts and instances into the store; 0: never"
    )
    state_backups_kept: int = Field(7, ge=1, description="how many of these saved states are kept")
    agent_tasks: int = Field(4, ge=1, le=1000, description="tasks that one agent works on at the same time")
    log_format: Literal["text", "json"] = Field("text", description="text (key=value) or json (one object a line)")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="the lowest level that is logged"
    )
    peers: dict[Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,31}$")], PeerSettings] = Field(
        {}, description="regions of other deployments that copies may go to and come from, by name"
    )


def load_settings(flags: Mapping[str, Any], config: Path | None, environ: Mapping[str, str] | None = None) -> Settings:
    """Merge the settings: flags win over the file, the file over the environment.

    ``flags``: the flags by setting; None: not given.

    Raises:
        SetupError: a setting is unknown, a value is not allowed, or the file cannot be read.
    """
    environ = os.environ if environ is None else environ
    merged: dict[str, Any] = {}
    for key, text in environ.items():
        if key.startswith(PREFIX):
            name = key.removeprefix(PREFIX).lower()
            if name in FILE_ONLY:
                raise SetupError(f"the setting {name} can be set in the settings file only")
            merged[name] = _from_environment(name, text)
    if config is not None:
        merged.update(_from_file(config))
    merged.update({key: value for key, value in flags.items() if value is not None})
    try:
        settings = Settings.model_validate(merged)
    except ValidationError as error:
        raise SetupError("; ".join(_complaint(part) for part in error.errors())) from error
    if settings.compression_level not in LEVELS[settings.codec]:
        raise SetupError("the setting compression_level does not fit: 0 to 3 for gzip, 1 to 19 for zstd")
    if settings.renew_s >= settings.lease_s:
        raise SetupError("the setting renew_s does not fit: a lease (lease_s) must be renewed before it runs out")
    return settings


def is_list(name: str) -> bool:
    """Whether a setting is a list: the flag is repeated, the environment variable is separated by commas."""
    return get_origin(Settings.model_fields[name].annotation) is list


def _from_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SetupError(f"the settings file {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SetupError(f"the settings file {path} is not TOML: {error}") from error


def _from_environment(name: str, text: str) -> Any:
    return [part for part in text.split(",") if part] if name in Settings.model_fields and is_list(name) else text


def _complaint(part: Any) -> str:
    name = ".".join(str(step) for step in part["loc"])
    if part["type"] == "extra_forbidden":
        return f"there is no setting {name}"
    return f"the setting {name} does not fit: {part['msg'].removeprefix('Value error, ')}"
