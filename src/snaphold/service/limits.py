"""How often an account may ask for what (contract, section 8). Kept in the catalog, with what was asked for.

A request counts in its own transaction, last of all: one that is refused, for whatever reason, has not been made.
Logins, which are no account's, identity counts by itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from snaphold.catalog import limits
from snaphold.catalog.database import Transaction, relies_on_single_writer
from snaphold.config import Settings
from snaphold.errors import OverLimit
from snaphold.model import Rate
from snaphold.service.deployment import Deployment


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where an account stands with a rate. ``next_us``: when one more is allowed."""

    limit: int
    remaining: int
    next_us: int


def allowed(settings: Settings, rate: Rate) -> int:
    """How many a minute; 0: no limit."""
    factor = 1 if settings.rate_factor is None else settings.rate_factor
    each = int(getattr(settings, f"{rate}_per_minute"))
    return max(1, int(each * factor)) if each and factor else 0


@relies_on_single_writer
def count(tx: Transaction, deployment: Deployment, account: str, rate: Rate) -> None:
    """Note a call. Raises ``OverLimit`` when it is one too many within a minute, and says when to come again."""
    limit = allowed(deployment.settings, rate)
    if not limit:
        return
    wait_us = limits.count(tx, account, rate, limit)
    if wait_us:
        raise OverLimit.within_a_minute(limit, wait_us)


def count_read(deployment: Deployment, account: str) -> None:
    """Note a read. Raises ``OverLimit``."""
    if allowed(deployment.settings, Rate.READS):
        with deployment.catalog.writing() as tx:
            count(tx, deployment, account, Rate.READS)


def standings(deployment: Deployment, account: str) -> Mapping[Rate, Standing]:
    """Where the account stands with every rate that is limited; logins are no account's."""
    found: dict[Rate, Standing] = {}
    with deployment.catalog.reading() as tx:
        for rate in Rate:
            limit = allowed(deployment.settings, rate)
            if limit and rate is not Rate.LOGINS:
                remaining, wait_us = limits.standing(tx, account, rate, limit)
                found[rate] = Standing(limit=limit, remaining=remaining, next_us=tx.now_us + wait_us)
    return found
