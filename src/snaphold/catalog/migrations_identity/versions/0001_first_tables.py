"""Accounts, users, tokens, logins."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "accounts",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("created_us", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "users",
        sa.Column("name", sa.String(128), primary_key=True),
        sa.Column("account", sa.String(64), sa.ForeignKey("accounts.id"), nullable=False),
        sa.Column("password_hash", sa.String(255)),
        sa.Column("api_key_sha256", sa.String(64), nullable=False),
        sa.Column("roles", sa.JSON, nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "tokens",
        sa.Column("sha256", sa.String(64), primary_key=True),
        sa.Column("user", sa.String(128), sa.ForeignKey("users.name"), nullable=False),
        sa.Column("issued_us", sa.BigInteger, nullable=False),
        sa.Column("expires_us", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_tokens_expires_us", "tokens", ["expires_us"])
    op.create_table(
        "logins",
        sa.Column("user_sha256", sa.String(64), nullable=False),
        sa.Column("at_us", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_logins_at_us", "logins", ["at_us"])
    op.create_index("ix_logins_user_sha256_at_us", "logins", ["user_sha256", "at_us"])


def downgrade() -> None:
    """Drop the tables."""
    for table in ("logins", "tokens", "users", "accounts"):
        op.drop_table(table)
