"""The settings of a process: one frozen object, units in the names.

A setting comes from a flag, else from the file named by ``--config`` (TOML), else from the environment variable
``SNAPHOLD_<NAME>``, else it has the default below. Unknown ones are refused. docs/reference/settings.md and
docs/reference/snaphold.example.toml are made from this module.
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
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")  # also what is left of it once it was taken for a path
LEVELS = {"gzip": range(4), "zstd": range(1, 20)}  # of compression


def _local(value: object) -> object:
    if isinstance(value, (str, Path)):
        if _URL.match(str(value)):
            raise ValueError(f"{str(value)!r} is a URL, and only a path of this machine will do")
        if not str(value).strip() or "\0" in str(value):
            raise ValueError("it is empty, or no path")
    return value


LocalPath = Annotated[Path, BeforeValidator(_local)]


class PeerSettings(BaseModel):
    """A region of another deployment that is joined with this one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str = Field(pattern=r"^https?://[^/\s]+/?$", description="the endpoint of its API, https where others listen")
    secret_file: LocalPath = Field(
        description="a file with the secret that both deployments keep, at least 20 characters (openssl rand -hex 32)"
    )
    store_dir: LocalPath | None = Field(
        None, description="the directory of its store, where that is mounted here too; default: over its API"
    )


class Settings(BaseModel):
    """Everything that an operator can set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    state_dir: LocalPath | None = Field(None, description="directory of everything that the service keeps")
    store_dir: LocalPath | None = Field(
        None, description="directory of the local stores, one a region below it; default: regions/NAME/store in DIR"
    )
    region: list[str] = Field([], description="regions to serve, each NAME=ADDRESS:PORT")
    public_url: str | None = Field(
        None, description="the endpoint that clients use, when it is not http://ADDRESS:PORT"
    )
    engine_dir: LocalPath | None = Field(None, description="an unpacked MariaDB (its root directory); default: found")
    encryption_key_file: LocalPath | None = Field(
        None,
        description="a key file of MariaDB's file_key_management, with which the servers encrypt InnoDB's tables and "
        "log; a backup of such a server can be restored where the same keys are; default: nothing is encrypted",
    )
    instance_networks: list[str] = Field(
        ["127.77.0.0/16"], description="networks of which each instance gets an address of its own"
    )
    instance_domain: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$",
        max_length=200,
        description="a domain in which each instance's hostname is, which the operator's name server then resolves to "
        "its address; default: the hostname is the address",
    )
    instance_port: int = Field(3306, ge=1, le=65535, description="the port of every instance")
    instance_outgoing_ports: list[Annotated[int, Field(ge=1, le=65535)]] = Field(
        [3306],
        description="TCP ports that an instance's server may connect to, to replicate from another; enforced on Linux "
        "6.7 and later",
    )
    shared_system_user: Literal["warn", "refuse"] | None = Field(
        None, description="without root, when a second account asks: warn (serve's default) or refuse (agent's default)"
    )
    first_instance_uid: int = Field(
        310_000, ge=1000, description="with root, the first of the 100,000 system user ids that instances get"
    )
    codec: Literal["gzip", "zstd"] = Field("gzip", description="how backups are compressed: gzip or zstd")
    compression_level: int = Field(1, description="level of it: 0 to 3 for gzip (isal), 1 to 19 for zstd")
    compression_threads: int = Field(0, ge=0, description="threads that compress and decompress; 0: one a core")
    max_backup_mb_per_s: float = Field(
        0,
        ge=0,
        allow_inf_nan=False,
        description="MB (1,000,000 bytes) a second that one backup takes from its tool at most; 0: no limit. What an "
        "increment's tool only looks at does not count, nor what it copies while nobody can write to MyISAM or make "
        "tables",
    )
    niceness: int = Field(
        10, ge=0, le=19, description="niceness, 0 to 19, of the tools and threads that back up and restore"
    )
    io_priority: Literal["normal", "low", "idle"] = Field(
        "normal", description="disk priority of the same: normal, low, or idle (only when nobody else uses the disk)"
    )
    lease_s: float = Field(30, gt=0, description="seconds of silence after which a host's task is given up")
    renew_s: float = Field(10, gt=0, description="seconds between two renewals of a lease")
    question_timeout_s: float = Field(15, gt=0, description="seconds that a caller waits for a host's answer")
    lock_wait_timeout_s: float = Field(
        60, gt=0, description="seconds that a backup waits for a table lock that a client holds"
    )
    verify_after_backup: Literal["none", "objects", "restore"] = Field(
        "objects",
        description="the proof that a backup must pass to be COMPLETED: its objects read back (objects), or brought up "
        "as a throw-away server as well (restore)",
    )
    verify_wait_s: float = Field(
        600, ge=0, description="seconds that a store may be silent while a new backup is read back, before it is FAILED"
    )
    start_timeout_s: float = Field(120, gt=0, description="seconds that a database server may take to accept queries")
    max_running_backups_per_account: int = Field(1, ge=0, description="running backups of one account; 0: no limit")
    max_backups_per_account: int = Field(0, ge=0, description="backups that one account may have; 0: no limit")
    max_instances_per_account: int = Field(0, ge=0, description="instances that one account may have; 0: no limit")
    max_volume_gb_per_account: int = Field(
        0, ge=0, description="GB that the volumes of one account's instances may have altogether; 0: no limit"
    )
    backup_creates_per_minute: int = Field(100, ge=0, description="backups that an account may ask for; 0: no limit")
    backup_deletes_per_minute: int = Field(20, ge=0, description="deletes of backups by an account; 0: no limit")
    backup_actions_per_minute: int = Field(20, ge=0, description="actions on backups by an account; 0: no limit")
    instance_creates_per_minute: int = Field(
        20, ge=0, description="instances that an account may ask for, restored ones too; 0: no limit"
    )
    instance_deletes_per_minute: int = Field(20, ge=0, description="deletes of instances by an account; 0: no limit")
    instance_actions_per_minute: int = Field(5, ge=0, description="actions on instances by an account; 0: no limit")
    instance_renames_per_minute: int = Field(20, ge=0, description="renames of instances by an account; 0: no limit")
    schedule_writes_per_minute: int = Field(20, ge=0, description="changes of schedules by an account; 0: no limit")
    user_writes_per_minute: int = Field(
        50, ge=0, description="changes of databases, users, rights and root by an account; 0: no limit"
    )
    logins_per_minute: int = Field(20, ge=0, description="attempts to log in as one user, in all regions; 0: no limit")
    reads_per_minute: int = Field(0, ge=0, description="reads by an account (100 where they were limited); 0: no limit")
    rate_factor: float | None = Field(
        None, ge=0, description="all these rates times this (serve's default: 10, api's: 1); 0: no rate is limited"
    )
    max_body_bytes: int = Field(1 << 20, ge=1024, description="bytes of the largest request body")
    max_connections: int = Field(
        1000, ge=16, description="connections that one API process has at most; fewer where it may open fewer files"
    )
    max_connections_per_client: int = Field(
        0, ge=0, description="of these, how many one client address may have; 0: half of them"
    )
    request_timeout_s: float = Field(
        20,
        gt=0,
        description="seconds that a request's header may take to arrive, and its body: one more for each 4096 bytes",
    )
    store_timeout_s: float = Field(5, gt=0, description="seconds that a request waits for the object store")
    token_lifetime_s: int = Field(86_400, ge=60, description="seconds that a token is good for")
    sweep_interval_s: float = Field(300, gt=0, description="seconds between two sweeps of ended attempts")
    sweep_grace_s: float = Field(60, ge=0, description="seconds after its end before an attempt is swept again")
    state_backup_interval_s: float = Field(
        86_400, ge=0, description="seconds after which the worker saves accounts and records into the store; 0: never"
    )
    state_backups_kept: int = Field(7, ge=1, description="how many of these saved states are kept")
    agent_tasks: int = Field(4, ge=1, le=1000, description="tasks that one agent works on at the same time")
    log_format: Literal["text", "json"] = Field("text", description="text (key=value) or json (a line each)")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="the least level that is logged"
    )
    peers: dict[Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,31}$")], PeerSettings] = Field(
        {}, description="regions of other deployments that copies may go to and come from, by name"
    )


def load_settings(flags: Mapping[str, Any], config: Path | None, environ: Mapping[str, str] | None = None) -> Settings:
    """Put the settings together: flags first, then the file, then the environment.

    ``flags`` holds those that were given (None: not given).

    Raises:
        SetupError: an unknown setting, a value that does not fit, or a file that cannot be read.
    """
    environ = os.environ if environ is None else environ
    merged: dict[str, Any] = {}
    for key, text in environ.items():
        if key.startswith(PREFIX):
            name = key.removeprefix(PREFIX).lower()
            if name in FILE_ONLY:
                raise SetupError(f"the setting {name} stands in the settings file only")
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
    """Whether a setting has several values: a flag for each, or commas between them in the environment."""
    return get_origin(Settings.model_fields[name].annotation) is list


def _from_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SetupError(f"the settings file {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SetupError(f"the settings file {path} is no TOML: {error}") from error


def _from_environment(name: str, text: str) -> Any:
    return [part for part in text.split(",") if part] if name in Settings.model_fields and is_list(name) else text


def _complaint(part: Any) -> str:
    name = ".".join(str(step) for step in part["loc"])
    if part["type"] == "extra_forbidden":
        return f"there is no setting {name}"
    return f"the setting {name} does not fit: {part['msg'].removeprefix('Value error, ')}"
