"""Quotas of accounts (contract, section 8). Rates, which count requests by the minute, are in ``service.limits``."""

from snaphold.catalog import backups, instances
from snaphold.catalog.database import Transaction, relies_on_single_writer
from snaphold.errors import OverLimit, Unprocessable
from snaphold.service.deployment import Deployment


@relies_on_single_writer
def check_backups(tx: Transaction, deployment: Deployment, account: str) -> None:
    """Raises ``OverLimit`` when the account has as many backups as it may have."""
    most = deployment.settings.max_backups_per_account
    if most and backups.count_of_account(tx, account) >= most:
        raise OverLimit(f"The account has {most} backups already, which is its limit.")


@relies_on_single_writer
def check_running_backups(tx: Transaction, deployment: Deployment, account: str) -> None:
    """Raises ``Unprocessable`` when as many backups of the account are being taken as may be at once."""
    limit = deployment.settings.max_running_backups_per_account
    if limit and backups.running_of_account(tx, account) >= limit:
        raise Unprocessable(f"The account has {limit} running backup(s) already, which is its limit.")


@relies_on_single_writer
def check_instances(
    tx: Transaction, deployment: Deployment, account: str, *, more_gb: int, more_instances: int = 0
) -> None:
    """Raises ``OverLimit`` when the account may not have more instances, or more GB of volumes."""
    settings = deployment.settings
    count, volume_gb = instances.usage(tx, account)
    most, most_gb = settings.max_instances_per_account, settings.max_volume_gb_per_account
    if most and count + more_instances > most:
        raise OverLimit(f"The account has {count} instances already; its limit is {most}.")
    if most_gb and volume_gb + more_gb > most_gb:
        raise OverLimit(
            f"The account's volumes have {volume_gb} GB already; the limit of all together is {most_gb} GB."
        )
