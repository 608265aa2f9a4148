"""Users and accounts that are disabled, and API keys of which a user has any number."""

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the columns and the table; each user's one key moves there."""
    op.add_column("accounts", sa.Column("disabled_us", sa.BigInteger))
    op.add_column("users", sa.Column("disabled_us", sa.BigInteger))
    op.add_column("tokens", sa.Column("api_key", sa.String(16)))
    op.create_index("ix_tokens_user", "tokens", ["user"])
    api_keys = op.create_table(
        "api_keys",
        sa.Column("id", sa.String(16), primary_key=True),
        sa.Column("user", sa.String(128), sa.ForeignKey("users.name"), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_api_keys_user", "api_keys", ["user"])
    users = sa.table("users", *map(sa.column, ("name", "api_key_sha256", "created_us")))
    for name, sha256, created_us in op.get_bind().execute(sa.select(users)).all():
        key = {"id": secrets.token_hex(6), "user": name, "sha256": sha256, "created_us": created_us}
        op.get_bind().execute(api_keys.insert().values(key))
    op.drop_column("users", "api_key_sha256")


def downgrade() -> None:
    """Drop what was made; of each user's keys the oldest stays, and none is the key that fits nothing."""
    op.add_column("users", sa.Column("api_key_sha256", sa.String(64), nullable=False, server_default=""))
    op.execute(
        "UPDATE users SET api_key_sha256 = coalesce((SELECT sha256 FROM api_keys WHERE api_keys.user = users.name"
        " ORDER BY created_us, id LIMIT 1), '')"
    )
    op.drop_table("api_keys")
    op.drop_index("ix_tokens_user", "tokens")
    op.drop_column("tokens", "api_key")
    op.drop_column("users", "disabled_us")
    op.drop_column("accounts", "disabled_us")
