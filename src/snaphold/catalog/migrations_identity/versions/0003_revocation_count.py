"""The count of revocations; and the column that processes of the release before 0002 still read.

0002 moved each user's API key into a table of its own and dropped the column. A process of the earlier release that
still runs then fails at every login. The column comes back with the oldest key of each user; a later release drops it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the table and the column."""
    revocations = op.create_table("revocations", sa.Column("count", sa.BigInteger, nullable=False))
    op.get_bind().execute(revocations.insert().values(count=0))
    op.add_column("users", sa.Column("api_key_sha256", sa.String(64), nullable=False, server_default=""))
    op.execute(
        "UPDATE users SET api_key_sha256 = coalesce((SELECT sha256 FROM api_keys WHERE api_keys.user = users.name"
        " ORDER BY created_us, id LIMIT 1), '')"
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_column("users", "api_key_sha256")
    op.drop_table("revocations")
