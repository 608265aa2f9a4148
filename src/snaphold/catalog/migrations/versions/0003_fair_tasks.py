"""When an account's last task on a host ended is looked up at each claim."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the index."""
    op.create_index("ix_tasks_host_id_account_ended_us", "tasks", ["host_id", "account", "ended_us"])
