"""The first tables of a region's catalog."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "backups",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("account", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("deleting", sa.Boolean(), nullable=False),
        sa.Column("instance_id", sa.String(length=36), nullable=True),
        sa.Column("source_type", sa.String(length=8), nullable=False),
        sa.Column("source_id", sa.String(length=36), nullable=False),
        sa.Column("parent_id", sa.String(length=36), nullable=True),
        sa.Column("datastore", sa.String(length=32), nullable=False),
        sa.Column("version", sa.String(length=32), nullable=False),
        sa.Column("flavor_ram_mb", sa.Integer(), nullable=False),
        sa.Column("volume_gb", sa.Integer(), nullable=False),
        sa.Column("is_automated", sa.Boolean(), nullable=False),
        sa.Column("made", sa.String(length=16), nullable=False),
        sa.Column("made_from", sa.String(length=36), nullable=True),
        sa.Column("made_from_region", sa.String(length=64), nullable=True),
        sa.Column("size_bytes", sa.BigInteger(), nullable=True),
        sa.Column("object_bytes", sa.BigInteger(), nullable=True),
        sa.Column("object_name", sa.String(length=255), nullable=True),
        sa.Column("manifest_sha256", sa.String(length=64), nullable=True),
        sa.Column("incarnation", sa.String(length=64), nullable=True),
        sa.Column("checkpoint_lsn", sa.BigInteger(), nullable=True),
        sa.Column("to_lsn", sa.BigInteger(), nullable=True),
        sa.Column("done_bytes", sa.BigInteger(), nullable=True),
        sa.Column("expected_bytes", sa.BigInteger(), nullable=True),
        sa.Column("bytes_per_s", sa.BigInteger(), nullable=True),
        sa.Column("step", sa.String(length=64), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("updated_us", sa.BigInteger(), nullable=False),
        sa.Column("deleted_us", sa.BigInteger(), nullable=True),
        sa.Column("proving", sa.String(length=8), nullable=True),
        sa.Column("mending", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("proof_asked_us", sa.BigInteger(), nullable=True),
        sa.Column("proof_tried_us", sa.BigInteger(), nullable=True),
        sa.Column("proof_status", sa.String(length=8), nullable=True),
        sa.Column("proof_level", sa.String(length=8), nullable=True),
        sa.Column("proof_at_us", sa.BigInteger(), nullable=True),
        sa.Column("proof_seconds", sa.Float(), nullable=True),
        sa.Column("proof_reason", sa.Text(), nullable=True),
        sa.Column("proof_mend_from", sa.String(length=64), nullable=True),
        sa.CheckConstraint(
            "status <> 'COMPLETED' OR manifest_sha256 IS NOT NULL", name=op.f("ck_backups_completed_has_manifest")
        ),
        sa.CheckConstraint("status <> 'FAILED' OR reason IS NOT NULL", name=op.f("ck_backups_failed_has_reason")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_backups")),
    )
    op.create_index("ix_backups_account_created_us_id", "backups", ["account", "created_us", "id"], unique=False)
    op.create_index(
        "ix_backups_account_instance_id_created_us_id",
        "backups",
        ["account", "instance_id", "created_us", "id"],
        unique=False,
    )
    op.create_index(
        "ix_backups_account_datastore_created_us_id",
        "backups",
        ["account", "datastore", "created_us", "id"],
        unique=False,
    )
    for name, column, where in (
        ("ix_backups_running", "account", "status IN ('NEW', 'BUILDING') AND made = 'taken'"),
        ("ix_backups_deleting", "id", "deleting AND deleted_us IS NULL"),
        ("ix_backups_failed", "updated_us", "status = 'FAILED'"),
        ("ix_backups_proving", "proving", "proving IS NOT NULL"),
        ("ix_backups_to_prove", "proof_asked_us", "proof_asked_us IS NOT NULL"),
    ):
        op.create_index(
            name, "backups", [column], unique=False, sqlite_where=sa.text(where), postgresql_where=sa.text(where)
        )
    op.create_index(op.f("ix_backups_parent_id"), "backups", ["parent_id"], unique=False)
    op.create_index("ix_backups_source_id_created_us_id", "backups", ["source_id", "created_us", "id"], unique=False)
    automated_fulls = (
        "is_automated AND made = 'taken' AND coalesce(parent_id, '') = ''"
        " AND status = 'COMPLETED' AND NOT deleting AND deleted_us IS NULL"
    )
    op.create_index(
        "ix_backups_automated_fulls",
        "backups",
        ["source_id", "created_us"],
        unique=False,
        sqlite_where=sa.text(automated_fulls),
        postgresql_where=sa.text(automated_fulls),
    )
    op.create_index(
        "uq_backups_running_source",
        "backups",
        ["source_id"],
        unique=True,
        sqlite_where=sa.text("status IN ('NEW', 'BUILDING') AND made = 'taken'"),
        postgresql_where=sa.text("status IN ('NEW', 'BUILDING') AND made = 'taken'"),
    )
    op.create_table(
        "deployment",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("region", sa.String(length=64), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("sweep_held_us", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deployment")),
    )
    op.create_table(
        "hosts",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("token_sha256", sa.String(length=64), nullable=False),
        sa.Column("datastores", sa.JSON(), nullable=False),
        sa.Column("shared_system_user", sa.Boolean(), nullable=False),
        sa.Column("accepts_shared", sa.Boolean(), nullable=False),
        sa.Column("session", sa.String(length=36), nullable=True),
        sa.Column("seen_us", sa.BigInteger(), nullable=True),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_hosts")),
        sa.UniqueConstraint("name", name=op.f("uq_hosts_name")),
        sa.UniqueConstraint("token_sha256", name=op.f("uq_hosts_token_sha256")),
    )
    op.create_table(
        "instances",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("account", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("deleting", sa.Boolean(), nullable=False),
        sa.Column("host_id", sa.String(length=36), nullable=False),
        sa.Column("datastore", sa.String(length=32), nullable=False),
        sa.Column("version", sa.String(length=32), nullable=False),
        sa.Column("flavor_id", sa.Integer(), nullable=False),
        sa.Column("volume_gb", sa.Integer(), nullable=False),
        sa.Column("address", sa.String(length=255), nullable=True),
        sa.Column("port", sa.Integer(), nullable=True),
        sa.Column("used_bytes", sa.BigInteger(), nullable=True),
        sa.Column("running", sa.Boolean(), nullable=False),
        sa.Column("step", sa.String(length=64), nullable=True),
        sa.Column("done_bytes", sa.BigInteger(), nullable=True),
        sa.Column("expected_bytes", sa.BigInteger(), nullable=True),
        sa.Column("bytes_per_s", sa.BigInteger(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("restored_from", sa.String(length=36), nullable=True),
        sa.Column("incarnation", sa.String(length=64), nullable=True),
        sa.Column("max_lsn", sa.BigInteger(), nullable=True),
        sa.Column("ended_incarnation", sa.String(length=64), nullable=True),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("updated_us", sa.BigInteger(), nullable=False),
        sa.Column("deleted_us", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_instances")),
    )
    op.create_index("ix_instances_account_created_us_id", "instances", ["account", "created_us", "id"], unique=False)
    op.create_index(op.f("ix_instances_host_id"), "instances", ["host_id"], unique=False)
    op.create_table(
        "questions",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("host_id", sa.String(length=36), nullable=False),
        sa.Column("instance_id", sa.String(length=36), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("deadline_us", sa.BigInteger(), nullable=False),
        sa.Column("ok", sa.Boolean(), nullable=True),
        sa.Column("answer", sa.JSON(), nullable=True),
        sa.Column("error", sa.String(length=32), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_questions")),
    )
    op.create_index("ix_questions_host_id_state", "questions", ["host_id", "state"], unique=False)
    op.create_table(
        "tasks",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("host_id", sa.String(length=36), nullable=False),
        sa.Column("account", sa.String(length=64), nullable=False),
        sa.Column("instance_id", sa.String(length=36), nullable=True),
        sa.Column("backup_id", sa.String(length=36), nullable=True),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("session", sa.String(length=36), nullable=True),
        sa.Column("lease_until_us", sa.BigInteger(), nullable=True),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("ended_us", sa.BigInteger(), nullable=True),
        sa.Column("reported", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tasks")),
    )
    op.create_index(op.f("ix_tasks_backup_id"), "tasks", ["backup_id"], unique=False)
    op.create_index("ix_tasks_host_id_state_created_us", "tasks", ["host_id", "state", "created_us"], unique=False)
    op.create_index(
        "ix_tasks_open",
        "tasks",
        ["lease_until_us"],
        unique=False,
        sqlite_where=sa.text("state <> 'ended'"),
        postgresql_where=sa.text("state <> 'ended'"),
    )
    op.create_index(
        "uq_tasks_open_instance",
        "tasks",
        ["instance_id"],
        unique=True,
        sqlite_where=sa.text("state <> 'ended'"),
        postgresql_where=sa.text("state <> 'ended'"),
    )
    op.create_table(
        "schedules",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("account", sa.String(length=64), nullable=False),
        sa.Column("source_type", sa.String(length=8), nullable=False),
        sa.Column("source_id", sa.String(length=36), nullable=False),
        sa.Column("day_of_week", sa.Integer(), nullable=False),
        sa.Column("hour", sa.Integer(), nullable=False),
        sa.Column("minute", sa.Integer(), nullable=False),
        sa.Column("full_backup_retention", sa.Integer(), nullable=False),
        sa.Column("copy_to", sa.JSON(), nullable=True),
        sa.Column("asked_by", sa.String(length=128), nullable=True),
        sa.Column("next_run_us", sa.BigInteger(), nullable=False),
        sa.Column("last_run_us", sa.BigInteger(), nullable=True),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("updated_us", sa.BigInteger(), nullable=False),
        sa.Column("deleted_us", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_schedules")),
    )
    op.create_index("ix_schedules_account_created_us_id", "schedules", ["account", "created_us", "id"], unique=False)
    op.create_index("ix_schedules_next_run_us", "schedules", ["next_run_us"], unique=False)
    op.create_index(
        "uq_schedules_source",
        "schedules",
        ["source_id"],
        unique=True,
        sqlite_where=sa.text("deleted_us IS NULL"),
        postgresql_where=sa.text("deleted_us IS NULL"),
    )
    op.create_table(
        "calls",
        sa.Column("caller", sa.String(length=64), nullable=False),
        sa.Column("rate", sa.String(length=20), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
    )
    op.create_index(op.f("ix_calls_at_us"), "calls", ["at_us"], unique=False)
    op.create_index("ix_calls_caller_rate_at_us", "calls", ["caller", "rate", "at_us"], unique=False)
    op.create_table(
        "copies",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("backup_id", sa.String(length=36), nullable=False),
        sa.Column("account", sa.String(length=64), nullable=False),
        sa.Column("region", sa.String(length=64), nullable=False),
        sa.Column("copy_id", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("with_ancestors", sa.Boolean(), nullable=False),
        sa.Column("asked_by", sa.String(length=128), nullable=True),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("next_try_us", sa.BigInteger(), nullable=True),
        sa.Column("begun_us", sa.BigInteger(), nullable=True),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("updated_us", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("status <> 'FAILED' OR reason IS NOT NULL", name=op.f("ck_copies_failed_has_reason")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_copies")),
    )
    op.create_index(op.f("ix_copies_backup_id"), "copies", ["backup_id"], unique=False)
    op.create_index(op.f("ix_backups_made_from"), "backups", ["made_from"], unique=False)
    op.create_index(
        "uq_copies_open",
        "copies",
        ["backup_id", "region"],
        unique=True,
        sqlite_where=sa.text("status IN ('NEW', 'COPYING')"),
        postgresql_where=sa.text("status IN ('NEW', 'COPYING')"),
    )
    op.create_table(
        "arrivals",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("account", sa.String(length=64), nullable=False),
        sa.Column("region", sa.String(length=64), nullable=False),
        sa.Column("made_from", sa.String(length=36), nullable=False),
        sa.Column("segments", sa.BigInteger(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("seen_us", sa.BigInteger(), nullable=False),
        sa.Column("ended_us", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_arrivals")),
    )
    op.create_index(op.f("ix_arrivals_account"), "arrivals", ["account"], unique=False)


def downgrade() -> None:
    """Drop them."""
    for table in (
        "deployment",
        "hosts",
        "instances",
        "backups",
        "tasks",
        "questions",
        "schedules",
        "calls",
        "copies",
        "arrivals",
    ):
        op.drop_table(table)
