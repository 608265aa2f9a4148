"""The tables of one region's catalog, with a constraint for every rule that can be one."""

from typing import Any, Final

import sqlalchemy as sa

from snaphold.model import BackupStatus

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "pk": "pk_%(table_name)s",
    }
)
Time = sa.BigInteger  # microseconds since the epoch, by the database's clock
# What schedules keep and expire; said in the very words of the index, so that every database finds it (with IS NULL
# SQLite would rather read every full backup there is, through the index of parents).
AUTOMATED_FULLS = (
    "is_automated AND made = 'taken' AND coalesce(parent_id, '') = ''"
    " AND status = 'COMPLETED' AND NOT deleting AND deleted_us IS NULL"
)
# The few backups that something is done to, among any number: each in the words of the statement that looks for them.
RUNNING_TAKEN = "status IN ('NEW', 'BUILDING') AND made = 'taken'"
BEING_DELETED = "deleting AND deleted_us IS NULL"
HAVING_FAILED = "status = 'FAILED'"


def _where(words: str) -> dict[str, Any]:
    """The keywords of a partial index, in every database."""
    return {"sqlite_where": sa.text(words), "postgresql_where": sa.text(words)}


deployment = sa.Table(
    "deployment",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("region", sa.String(64), nullable=False),
    sa.Column("created_us", Time, nullable=False),
    sa.Column("sweep_held_us", Time),  # since when nothing is swept: records were made anew from manifests
)

hosts = sa.Table(
    "hosts",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("name", sa.String(255), nullable=False, unique=True),
    sa.Column("token_sha256", sa.String(64), nullable=False, unique=True),
    sa.Column("datastores", sa.JSON, nullable=False),
    sa.Column("shared_system_user", sa.Boolean, nullable=False),
    sa.Column("accepts_shared", sa.Boolean, nullable=False),
    sa.Column("memory_mb", sa.Integer),  # as the agent told it, as the three that follow
    sa.Column("networks", sa.JSON),  # of which each instance gets an address
    sa.Column("instance_port", sa.Integer),
    sa.Column("taken", sa.JSON),  # addresses of these that are not free
    sa.Column("session", sa.String(36)),
    sa.Column("seen_us", Time),
    sa.Column("created_us", Time, nullable=False),
)

instances = sa.Table(
    "instances",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("account", sa.String(64), nullable=False),
    sa.Column("name", sa.String(255), nullable=False),
    sa.Column("status", sa.String(20), nullable=False),
    sa.Column("deleting", sa.Boolean, nullable=False),
    sa.Column("host_id", sa.String(36), nullable=False, index=True),
    sa.Column("datastore", sa.String(32), nullable=False),
    sa.Column("version", sa.String(32), nullable=False),
    sa.Column("flavor_id", sa.Integer, nullable=False),
    sa.Column("volume_gb", sa.Integer, nullable=False),
    sa.Column("hostname", sa.String(255)),  # as clients are told from the first answer on
    sa.Column("reserved_address", sa.String(45)),  # where it is to listen
    sa.Column("address", sa.String(255)),  # where it has listened; null: it never ran
    sa.Column("port", sa.Integer),
    sa.Column("used_bytes", sa.BigInteger),
    sa.Column("running", sa.Boolean, nullable=False),
    sa.Column("step", sa.String(64)),
    sa.Column("done_bytes", sa.BigInteger),
    sa.Column("expected_bytes", sa.BigInteger),
    sa.Column("bytes_per_s", sa.BigInteger),
    sa.Column("reason", sa.Text),
    sa.Column("restored_from", sa.String(36)),
    sa.Column("incarnation", sa.String(64)),  # of its data directory, as its host tells it; null: not known
    sa.Column("max_lsn", sa.BigInteger),  # the highest told in it
    sa.Column("ended_incarnation", sa.String(64)),  # the last one that is over: none of its backups is a parent
    sa.Column("created_us", Time, nullable=False),
    sa.Column("updated_us", Time, nullable=False),
    sa.Column("deleted_us", Time),
    sa.Index("ix_instances_account_created_us_id", "account", "created_us", "id"),
    # Two servers of a host never get one address, however many are asked for at once.
    sa.Index(
        "uq_instances_reserved_address",
        "host_id",
        "reserved_address",
        unique=True,
        **_where("reserved_address IS NOT NULL AND deleted_us IS NULL"),
    ),
)

backups = sa.Table(
    "backups",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("account", sa.String(64), nullable=False),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("description", sa.Text),
    sa.Column("status", sa.String(20), nullable=False),
    sa.Column("deleting", sa.Boolean, nullable=False),
    sa.Column("instance_id", sa.String(36)),
    sa.Column("source_type", sa.String(8), nullable=False),
    sa.Column("source_id", sa.String(36), nullable=False),
    sa.Column("parent_id", sa.String(36), index=True),
    sa.Column("datastore", sa.String(32), nullable=False),
    sa.Column("version", sa.String(32), nullable=False),
    sa.Column("flavor_ram_mb", sa.Integer, nullable=False),
    sa.Column("volume_gb", sa.Integer, nullable=False),
    sa.Column("is_automated", sa.Boolean, nullable=False),
    sa.Column("made", sa.String(16), nullable=False),  # model.Made
    sa.Column("made_from", sa.String(36), index=True),  # the backup that it consolidates, or is a copy of
    sa.Column("made_from_region", sa.String(64)),  # where that one is, for a copy
    sa.Column("size_bytes", sa.BigInteger),
    sa.Column("object_bytes", sa.BigInteger),
    sa.Column("object_name", sa.String(255)),
    sa.Column("manifest_sha256", sa.String(64)),
    sa.Column("incarnation", sa.String(64)),
    sa.Column("checkpoint_lsn", sa.BigInteger),
    sa.Column("to_lsn", sa.BigInteger),
    sa.Column("done_bytes", sa.BigInteger),
    sa.Column("expected_bytes", sa.BigInteger),
    sa.Column("bytes_per_s", sa.BigInteger),
    sa.Column("step", sa.String(64)),
    sa.Column("reason", sa.Text),
    sa.Column("created_us", Time, nullable=False),
    sa.Column("updated_us", Time, nullable=False),
    sa.Column("deleted_us", Time),
    sa.Column("proving", sa.String(8)),  # model.VerificationLevel; not null: in use
    sa.Column(
        "mending", sa.Boolean, nullable=False, server_default=sa.false()
    ),  # the verification repairs what is damaged
    sa.Column("proof_asked_us", Time),  # of a verification that is still to be given
    sa.Column("proof_tried_us", Time),
    sa.Column("proof_status", sa.String(8)),  # model.VerificationStatus
    sa.Column("proof_level", sa.String(8)),
    sa.Column("proof_at_us", Time),
    sa.Column("proof_seconds", sa.Float),
    sa.Column("proof_reason", sa.Text),
    sa.Column("proof_mend_from", sa.String(64)),  # the region that has what is damaged here
    sa.Index("ix_backups_account_created_us_id", "account", "created_us", "id"),
    sa.Index("ix_backups_account_instance_id_created_us_id", "account", "instance_id", "created_us", "id"),
    sa.Index("ix_backups_account_datastore_created_us_id", "account", "datastore", "created_us", "id"),
    sa.Index("ix_backups_source_id_created_us_id", "source_id", "created_us", "id"),
    sa.Index(
        "ix_backups_automated_fulls",
        "source_id",
        "created_us",
        **_where(AUTOMATED_FULLS),
    ),
    # One backup of a source is taken at a time, whoever asks and however often at once (contract, section 1).
    sa.Index(
        "uq_backups_running_source",
        "source_id",
        unique=True,
        **_where(RUNNING_TAKEN),
    ),
    sa.Index("ix_backups_running", "account", **_where(RUNNING_TAKEN)),
    sa.Index("ix_backups_deleting", "id", **_where(BEING_DELETED)),
    sa.Index("ix_backups_failed", "updated_us", **_where(HAVING_FAILED)),
    sa.Index(
        "ix_backups_proving",
        "proving",
        **_where("proving IS NOT NULL"),
    ),
    sa.Index(
        "ix_backups_to_prove",
        "proof_asked_us",
        **_where("proof_asked_us IS NOT NULL"),
    ),
    sa.CheckConstraint("status <> 'COMPLETED' OR manifest_sha256 IS NOT NULL", name="completed_has_manifest"),
    sa.CheckConstraint("status <> 'FAILED' OR reason IS NOT NULL", name="failed_has_reason"),
)

# What backups.usable says, as conditions.
USABLE: Final = (backups.c.status == BackupStatus.COMPLETED, ~backups.c.deleting, backups.c.deleted_us.is_(None))

copies = sa.Table(
    "copies",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("backup_id", sa.String(36), nullable=False, index=True),
    sa.Column("account", sa.String(64), nullable=False),
    sa.Column("region", sa.String(64), nullable=False),
    sa.Column("copy_id", sa.String(36), nullable=False),  # of the backup there
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("description", sa.Text),
    sa.Column("with_ancestors", sa.Boolean, nullable=False),
    sa.Column("asked_by", sa.String(128)),
    sa.Column("status", sa.String(16), nullable=False),  # model.CopyStatus
    sa.Column("reason", sa.Text),
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Column("next_try_us", Time),
    sa.Column("begun_us", Time),
    sa.Column("created_us", Time, nullable=False),
    sa.Column("updated_us", Time, nullable=False),
    # A backup is on its way to a region once, whoever asks and however often at once.
    sa.Index(
        "uq_copies_open",
        "backup_id",
        "region",
        unique=True,
        **_where("status IN ('NEW', 'COPYING')"),
    ),
    sa.CheckConstraint("status <> 'FAILED' OR reason IS NOT NULL", name="failed_has_reason"),
)

incoming_copies = sa.Table(
    "arrivals",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("account", sa.String(64), nullable=False, index=True),
    sa.Column("region", sa.String(64), nullable=False),
    sa.Column("made_from", sa.String(36), nullable=False),
    sa.Column("segments", sa.BigInteger, nullable=False),
    sa.Column("created_us", Time, nullable=False),
    sa.Column("seen_us", Time, nullable=False),
    sa.Column("ended_us", Time),
)

tasks = sa.Table(
    "tasks",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("host_id", sa.String(36), nullable=False),
    sa.Column("account", sa.String(64), nullable=False),
    sa.Column("instance_id", sa.String(36)),
    sa.Column("backup_id", sa.String(36), index=True),
    sa.Column("payload", sa.JSON, nullable=False),
    sa.Column("session", sa.String(36)),
    sa.Column("lease_until_us", Time),
    sa.Column("created_us", Time, nullable=False),
    sa.Column("ended_us", Time),
    sa.Column("reported", sa.Boolean, nullable=False),  # ended by its attempt's own report, not abandoned
    sa.Index("ix_tasks_host_id_state_created_us", "host_id", "state", "created_us"),
    sa.Index("ix_tasks_host_id_account_ended_us", "host_id", "account", "ended_us"),
    # What is open is looked through every few seconds, however many have ended.
    sa.Index(
        "ix_tasks_open",
        "lease_until_us",
        **_where("state <> 'ended'"),
    ),
    # A host works on one task of an instance at a time.
    sa.Index(
        "uq_tasks_open_instance",
        "instance_id",
        unique=True,
        **_where("state <> 'ended'"),
    ),
)

host_calls = sa.Table(
    "questions",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("host_id", sa.String(36), nullable=False),
    sa.Column("instance_id", sa.String(36), nullable=False),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("payload", sa.JSON, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),  # asked, taken, answered
    sa.Column("deadline_us", Time, nullable=False),
    sa.Column("ok", sa.Boolean),
    sa.Column("answer", sa.JSON),
    sa.Column("error", sa.String(32)),
    sa.Column("message", sa.Text),
    sa.Index("ix_questions_host_id_state", "host_id", "state"),
)

schedules = sa.Table(
    "schedules",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("account", sa.String(64), nullable=False),
    sa.Column("source_type", sa.String(8), nullable=False),
    sa.Column("source_id", sa.String(36), nullable=False),
    sa.Column("day_of_week", sa.Integer, nullable=False),
    sa.Column("hour", sa.Integer, nullable=False),
    sa.Column("minute", sa.Integer, nullable=False),
    sa.Column("full_backup_retention", sa.Integer, nullable=False),
    sa.Column("copy_to", sa.JSON),
    sa.Column("asked_by", sa.String(128)),
    sa.Column("next_run_us", Time, nullable=False),
    sa.Column("last_run_us", Time),
    sa.Column("created_us", Time, nullable=False),
    sa.Column("updated_us", Time, nullable=False),
    sa.Column("deleted_us", Time),
    sa.Index("ix_schedules_account_created_us_id", "account", "created_us", "id"),
    sa.Index("ix_schedules_next_run_us", "next_run_us"),
    # A source has one schedule (contract, section 7).
    sa.Index(
        "uq_schedules_source",
        "source_id",
        unique=True,
        **_where("deleted_us IS NULL"),
    ),
)

calls = sa.Table(
    "calls",
    metadata,
    sa.Column("caller", sa.String(64), nullable=False),  # the account
    sa.Column("rate", sa.String(20), nullable=False),  # model.Rate
    sa.Column("at_us", Time, nullable=False, index=True),
    sa.Index("ix_calls_caller_rate_at_us", "caller", "rate", "at_us"),
)
