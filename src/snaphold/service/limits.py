"""Rates: how many requests of each kind an account may make within a minute (contract, section 8).

A request is counted in its own transaction, last of all, so that a refused request does not count. Logins are counted
by identity.
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
    """What is left of a rate. ``next_us``: when one more request is allowed."""

    limit: int
    remaining: int
    next_us: int


def allowed(settings: Settings, rate: Rate) -> int:
    """The limit of a rate, in requests a minute; 0: no limit."""
    factor = 1 if settings.rate_factor is None else settings.rate_factor
    each = int(getattr(settings, f"{rate}_per_minute"))
    return max(1, int(each * factor)) if each and factor else 0


@relies_on_single_writer
def count(tx: Transaction, deployment: Deployment, account: str, rate: Rate) -> None:
    """Count a request. Raises ``OverLimit``, which says when to try again, if it exceeds the rate."""
    limit = allowed(deployment.settings, rate)
    if not limit:
        return
    wait_us = limits.count(tx, account, rate, limit)
    if wait_us:
        raise OverLimit.within_a_minute(limit, wait_us)


def count_read(deployment: Deployment, account: str) -> None:
    """Count a read. Raises ``OverLimit``."""
    if allowed(deployment.settings, Rate.READS):
        with deployment.catalog.writing() as tx:
            count(tx, deployment, account, Rate.READS)


def standings(deployment: Deployment, account: str) -> Mapping[Rate, Standing]:
    """What is left of every rate of the account that has a limit. Logins are not counted by account."""
    found: dict[Rate, Standing] = {}
    with deployment.catalog.reading() as tx:
        for rate in Rate:
            limit = allowed(deployment.settings, rate)
            if limit and rate is not Rate.LOGINS:
                remaining, wait_us = limits.standing(tx, account, rate, limit)
                found[rate] = Standing(limit=limit, remaining=remaining, next_us=tx.now_us + wait_us)
    return found
