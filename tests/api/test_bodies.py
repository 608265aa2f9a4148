import hashlib
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snaphold.api.backups import backup_request
from snaphold.api.instances import instance_request
from snaphold.api.paging import page_by_key, parse_page
from snaphold.api.request_body import parse_body
from snaphold.api.users import user_spec
from snaphold.engines.mariadb.accounts import native_hash
from snaphold.errors import BadRequest
from snaphold.schemas import backups, databases, groups, instances, logins, schedules, users
from snaphold.schemas.base import RequestSchema
from snaphold.service.requests import BackupRequest, PageRequest

MODELS: list[type[RequestSchema]] = [
    *(
        backups.BackupCreate,
        backups.BackupAction,
        instances.InstanceCreate,
        instances.InstanceChange,
        instances.InstanceAction,
    ),
    *(databases.DatabasesCreate, users.UsersCreate, users.UserChanged, users.UserGrants, groups.GroupCreate),
    *(groups.GroupAction, schedules.ScheduleCreate, schedules.ScheduleChange, logins.AuthV2, logins.AuthV3),
]
KEYS = sorted(
    {key for model in MODELS for key in (json.dumps(model.model_json_schema()).split('"')) if key.isidentifier()}
    | {"copy-backup", "RAX-KSKEY:apiKeyCredentials"}
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=70),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=25,
)


def _json(document: object) -> bytes:
    return json.dumps(document).encode("utf-8", "surrogatepass")


def _refusal(model: type[RequestSchema], raw: bytes) -> str | None:
    """The words of the refusal, None when the body was understood."""
    try:
        parse_body(model, raw)
    except BadRequest as refusal:
        return str(refusal)
    return None


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
@given(document=VALUES)
def test_any_document(model: type[RequestSchema], document: Any) -> None:
    """Whatever JSON a body is: it is understood, or refused in words."""
    assert _refusal(model, _json(document)) != ""


@given(st.binary(max_size=200))
def test_any_bytes(raw: bytes) -> None:
    """Whatever bytes a body is: it is understood, or refused."""
    assert _refusal(backups.BackupCreate, raw) != ""


@given(st.dictionaries(st.sampled_from(["name", "password", "host", "databases"]), VALUES), st.uuids())
def test_refusals_repeat_no_value(user: dict[str, Any], canary: Any) -> None:
    """Whatever else is wrong with a user: its password is in no refusal, and in nothing that was parsed."""
    secret = str(canary)
    for password in (secret, [secret], {"value": secret}):
        raw = _json({"users": [{**user, "password": password}]})
        refusal = _refusal(users.UsersCreate, raw)
        shown = repr(parse_body(users.UsersCreate, raw)) if refusal is None else refusal
        assert secret not in shown


@given(st.text(min_size=1).filter(lambda text: "\0" not in text))
def test_password_hash(password: str) -> None:
    """`mysql_native_password`: an asterisk, and SHA-1 of SHA-1 in 40 upper-case digits."""
    body = {"users": [{"name": "u", "password": password}]}
    spec = user_spec(parse_body(users.UsersCreate, json.dumps(body).encode()).users[0], native_hash)
    assert spec.password_hash == "*" + hashlib.sha1(hashlib.sha1(password.encode()).digest()).hexdigest().upper()  # noqa: S324


def test_known_password_hash() -> None:
    """What the server itself says: `SELECT PASSWORD('p')`."""
    raw = b'{"users": [{"name": "u", "password": "p"}]}'
    spec = user_spec(parse_body(users.UsersCreate, raw).users[0], native_hash)
    assert spec.password_hash == "*7B9EBEED26AA52ED10C0F549FA863F13C39E0209"


@given(st.text(max_size=70))
def test_backup_names(name: str) -> None:
    """1 to 64 characters with a letter or a digit among them, and no NUL: exactly these are names."""
    fits = 1 <= len(name) <= 64 and any(character.isalnum() for character in name) and "\0" not in name
    try:
        request = parse_body(backups.BackupCreate, json.dumps({"backup": {"name": name, "instance": "i"}}).encode())
    except BadRequest:
        assert not fits
    else:
        assert (fits, backup_request(request, "demo").name) == (True, name)


def test_backup_request() -> None:
    """A body becomes the service's request; regions that are named twice count once."""
    fields = {"name": "n", "instance": "i", "incremental": 1, "parent_id": "p", "copy_to": ["IAD", "ORD", "IAD"]}
    body = parse_body(backups.BackupCreate, _json({"backup": fields}))
    assert backup_request(body, "demo") == BackupRequest(
        name="n",
        description=None,
        source_type="instance",
        source_id="i",
        parent_id="p",
        incremental=True,
        copy_to=("IAD", "ORD"),
        asked_by="demo",
    )


def test_words() -> None:
    """A refusal says which element, and what is wrong with it."""
    fields = {"flavorRef": 99, "name": "n" * 256, "volume": {"size": "x"}, "databases": {}, "users": [{}]}
    with pytest.raises(BadRequest) as refusal:
        parse_body(instances.InstanceCreate, _json({"instance": fields}))
    assert str(refusal.value) == (
        "instance.flavorRef names no flavor; instance.name must have at most 255 characters; "
        "instance.volume.size must be an integer; instance.databases must be a list; "
        "instance.users.0.name is required"
    )


@pytest.mark.parametrize(("size", "gb"), [(2, 2), ("3", 3), ("065536", 65_536)])
def test_a_volume_as_text(size: object, gb: int) -> None:
    """A volume's size may be digits in a string, as Trove takes it, wherever one is named."""
    asked = {"flavorRef": 1, "volume": {"size": size}}
    create = parse_body(instances.InstanceCreate, _json({"instance": asked}))
    resize = parse_body(instances.InstanceAction, _json({"resize": {"volume": {"size": size}}})).resize
    group = parse_body(groups.GroupCreate, _json({"ha": {"name": "g", "replica_source": [asked], "replicas": [asked]}}))
    assert resize is not None
    assert resize.volume is not None
    request = instance_request(create, lambda _: native_hash)
    assert (request.volume_gb, resize.volume.size, group.ha.replicas[0].volume.size) == (gb, gb, gb)


@pytest.mark.parametrize("size", ["", " 2", "2.0", "-2", "0", "65537", "\uff12", "9" * 5000, 2.5, True, [2]])
def test_a_volume_that_is_none(size: object) -> None:
    """Whatever else stands there is no size."""
    refusal = _refusal(instances.InstanceCreate, _json({"instance": {"flavorRef": 1, "volume": {"size": size}}}))
    assert refusal is not None
    assert refusal.startswith("instance.volume.size must be ")


BACKUP = {"name": "n", "instance": "i"}
DB = {"flavorRef": 1, "volume": {"size": 2}}


@pytest.mark.parametrize(
    ("model", "document", "where", "wrong", "right"),
    [
        (backups.BackupCreate, {"backup": {**BACKUP, "parent": "p"}}, "backup", "parent", "parent_id"),
        (backups.BackupCreate, {"backup": {**BACKUP, "parentId": "p"}}, "backup", "parentId", "parent_id"),
        (backups.BackupCreate, {"backup": {**BACKUP, "parrent_id": "p"}}, "backup", "parrent_id", "parent_id"),
        (backups.BackupCreate, {"backup": {**BACKUP, "increment": 1}}, "backup", "increment", "incremental"),
        (backups.BackupCreate, {"backup": {**BACKUP, "copy-to": ["IAD"]}}, "backup", "copy-to", "copy_to"),
        (backups.BackupCreate, {"backup": {**BACKUP, "based_on": "p"}}, "backup", "based_on", "parent_id"),
        (backups.BackupCreate, {"backup": {**BACKUP, "base": "p"}}, "backup", "base", "parent_id"),
        (backups.BackupCreate, {"backup": {**BACKUP, "backup_parent": "p"}}, "backup", "backup_parent", "parent_id"),
        (
            backups.BackupCreate,
            {"backup": {**BACKUP, "parent_id": None, "parent": "p"}},
            "backup",
            "parent",
            "parent_id",
        ),
        (
            backups.BackupCreate,
            {"backup": {**BACKUP, "incremental_from": "p"}},
            "backup",
            "incremental_from",
            "parent_id",
        ),
        (backups.BackupCreate, {"backup": {**BACKUP, "type": "incremental"}}, "backup", "type", "incremental"),
        (backups.BackupAction, {"verify": {"lvl": "restore"}}, "verify", "lvl", "level"),
        (backups.BackupAction, {"verify": {"levels": "restore"}}, "verify", "levels", "level"),
        (backups.BackupAction, {"verify": {}, "copy_backup": {}}, "The body", "copy_backup", "copy-backup"),
        (
            instances.InstanceCreate,
            {"instance": {**DB, "restore_point": {}}},
            "instance",
            "restore_point",
            "restorePoint",
        ),
        (instances.InstanceCreate, {"instance": {**DB, "backupRef": "b"}}, "instance", "backupRef", "restorePoint"),
        (instances.InstanceCreate, {"instance": {**DB, "slave_of": "i"}}, "instance", "slave_of", "replica_of"),
        (databases.DatabasesCreate, {"databases": [{"charset": "x"}]}, "databases.0", "charset", "character_set"),
        (instances.InstanceAction, {"resize": {"flavor_ref": 2}}, "resize", "flavor_ref", "flavorRef"),
        (schedules.ScheduleChange, {"schedule": {"runNow": "true"}}, "schedule", "runNow", "run_now"),
        (schedules.ScheduleChange, {"schedule": {"retention": 5}}, "schedule", "retention", "full_backup_retention"),
    ],
)
def test_near_misses(model: type[RequestSchema], document: Any, where: str, wrong: str, right: str) -> None:
    """A key that is nearly one of ours is refused, and the right one named: what was meant would not be done."""
    assert f'{where} has no key "{wrong}": the right one is "{right}"' == _refusal(model, _json(document))


@pytest.mark.parametrize(
    ("model", "document", "wrong", "inside"),
    [
        (backups.BackupCreate, {"backup": BACKUP, "parent_id": "p"}, "parent_id", "backup"),
        (instances.InstanceCreate, {"instance": DB, "restorePoint": {"backupRef": "b"}}, "restorePoint", "instance"),
    ],
)
def test_keys_one_step_too_high(model: type[RequestSchema], document: Any, wrong: str, inside: str) -> None:
    """A key of ours that stands beside the part that it belongs into is refused too."""
    assert f'The body has no key "{wrong}": it belongs inside "{inside}"' == _refusal(model, _json(document))


@pytest.mark.parametrize(
    ("model", "document"),
    [
        pytest.param(
            backups.BackupCreate,
            {
                "backup": {
                    **BACKUP,
                    "swift_container": "c",
                    "storage_driver": "swift",
                    "backup_type": "T",
                    "is_automated": False,
                    "note": "n",
                    "parent": None,
                    "parent_ref": "",
                    "description": "d",
                    "Description": "e",
                    "": 1,
                    "\x1b[31m": 1,
                    "par\x00ent": "p",
                },
                "note": 1,
            },
            id="backup",
        ),
        pytest.param(
            instances.InstanceCreate,
            {
                "instance": {
                    **DB,
                    "volume": {"size": 2, "type": None},
                    "access": {"is_public": False},
                    "nics": [{"net-id": "x"}],
                    "availability_zone": "a",
                    "region_name": "r",
                    "configuration": "c",
                    "replica_count": 1,
                    "modules": [{"id": "m"}],
                    "locality": "affinity",
                    "slave_of": "",
                    "databases": [{"name": "d", "character_set": "utf8", "size": 1}],
                }
            },
            id="instance",
        ),
        pytest.param(
            logins.AuthV3,
            {
                "auth": {
                    "identity": {
                        "methods": ["password"],
                        "password": {"user": {"name": "u", "domain": {"id": "default"}, "password": "p"}},
                    },
                    "scope": {"project": {"name": "1234", "domain": {"id": "default"}}},
                }
            },
            id="login",
        ),
    ],
)
def test_what_means_nothing_here(model: type[RequestSchema], document: Any) -> None:
    """Keys that clients send and that mean nothing here are ignored, and so is a near miss that asks for nothing."""
    assert _refusal(model, _json(document)) is None


def test_a_body_full_of_unknown_keys() -> None:
    """However many unknown keys a body has, its check takes little longer than that of a plain body of this size."""
    unknown = {f"unknown_key_number_{number:020}": 1 for number in range(50)}
    raw = _json({"databases": [{"name": f"d{number}", **unknown} for number in range(450)]})
    assert len(raw) > 1_000_000
    begun_s = time.thread_time()
    assert len(parse_body(databases.DatabasesCreate, raw).databases) == 450
    assert time.thread_time() - begun_s < 0.3


def test_a_body_that_is_nested_too_deeply() -> None:
    """It is refused in words that say so."""
    assert "nested too deeply" in (_refusal(backups.BackupCreate, b"[" * 5_000) or "")


@given(st.none() | st.text(max_size=30), st.none() | st.text(max_size=30))
def test_any_page(limit: str | None, marker: str | None) -> None:
    """Whatever is asked for: 1 to 100 rows behind a marker that can stand in a URL, or a refusal."""
    try:
        page = parse_page(limit, marker)
    except BadRequest:
        return
    assert 1 <= page.limit <= 100
    assert marker is None or all(c.isascii() and (c.isalnum() or c in "._~-") for c in marker)


@given(st.sets(st.text(min_size=1, max_size=5)), st.integers(1, 4))
def test_pages_by_key(keys: set[str], limit: int) -> None:
    """Following the markers shows each row once, in order, whatever the keys are; each marker can stand in a URL."""
    keys = {key for key in keys if key.isprintable()}
    seen: list[str] = []
    marker: str | None = None
    while True:
        part, marker = page_by_key(sorted(keys, key=hash), str, PageRequest(limit=limit, marker=marker))
        seen += part
        if marker is None:
            break
        assert parse_page(None, marker).marker == marker
    assert seen == sorted(keys)


@pytest.mark.parametrize("name", ["xtrabackup_checkpoints", "mariadb_backup_binlog_pos_innodb", "ib_logfile1"])
def test_a_database_where_the_engine_needs_a_file(name: str) -> None:
    """Refused at once: its server would not start again, or no backup of it could be restored."""
    refusal = _refusal(databases.DatabasesCreate, _json({"databases": [{"name": name}]}))
    assert refusal == "databases.0.name is reserved for the database server"


@pytest.mark.parametrize("name", ["xtrabackup_info", "xtrabackup_history", "mariadb_backup_x", "ib_logfile_x"])
def test_a_database_called_like_a_file(name: str) -> None:
    """Other names are the customer's, whatever they begin with."""
    body = databases.DatabasesCreate.model_validate({"databases": [{"name": name}]})
    assert [database.name for database in body.databases] == [name]
