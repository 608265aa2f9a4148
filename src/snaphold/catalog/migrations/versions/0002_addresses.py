"""Addresses are chosen with the row of an instance; hosts tell their networks and their memory."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_RESERVED = "reserved_address IS NOT NULL AND deleted_us IS NULL"


def upgrade() -> None:
    """Add the columns. Of instances that are there the address stays what it is."""
    op.add_column("hosts", sa.Column("memory_mb", sa.Integer(), nullable=True))
    op.add_column("hosts", sa.Column("networks", sa.JSON(), nullable=True))
    op.add_column("hosts", sa.Column("instance_port", sa.Integer(), nullable=True))
    op.add_column("hosts", sa.Column("taken", sa.JSON(), nullable=True))
    op.add_column("instances", sa.Column("hostname", sa.String(length=255), nullable=True))
    op.add_column("instances", sa.Column("reserved_address", sa.String(length=45), nullable=True))
    op.create_index(
        "uq_instances_reserved_address",
        "instances",
        ["host_id", "reserved_address"],
        unique=True,
        sqlite_where=sa.text(_RESERVED),
        postgresql_where=sa.text(_RESERVED),
    )
