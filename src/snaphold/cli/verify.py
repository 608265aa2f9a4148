"""``snaphold verify``: has the worker and the hosts of the running service verify backups."""

import json
import sys
import time
from collections import deque
from contextlib import suppress
from typing import Final

from snaphold.cli.admin import one_region
from snaphold.cli.options import Given
from snaphold.errors import NotFound, Unavailable, Unprocessable
from snaphold.model import Backup, VerificationLevel, VerificationStatus, rfc3339
from snaphold.service.backups import show_backup
from snaphold.service.deployment import Deployment
from snaphold.service.verification import request_verification, verifiable_backups
from snaphold.wiring.deployment import opened_deployment
from snaphold.wiring.logs import set_up_logs

_AT_ONCE: Final = 2  # backups verified at a time, so that hosts can do other tasks
_POLL_S: Final = 0.2


def verify_backups(given: Given, level: VerificationLevel, account: str | None, *, wait: bool) -> bool:
    """Request a verification of every COMPLETED backup of a region. Returns whether all passed.

    The backups that were not verified for the longest time come first. Prints a line of JSON for each. Without ``wait``
    all verifications are requested at once.
    """
    set_up_logs(given.settings, "verify")
    state = given.state
    state.require()
    with opened_deployment(given.settings, state, one_region(given)) as deployment:
        return _Round(deployment, level, at_once=_AT_ONCE if wait else None).run(
            verifiable_backups(deployment, account)
        )


class _Round:
    """Verifies some backups once, ``at_once`` at a time; None: requests all, and waits for no result."""

    def __init__(self, deployment: Deployment, level: VerificationLevel, *, at_once: int | None) -> None:
        self._deployment = deployment
        self._level = level
        self._at_once = at_once
        self._running: list[Backup] = []
        self._all_passed = True

    def run(self, backups: list[Backup]) -> bool:
        """Returns whether all passed; without waiting, whether all were requested."""
        waiting = deque(backups)
        while waiting or self._running:
            while waiting and (self._at_once is None or len(self._running) < self._at_once):
                backup = waiting.popleft()
                if not self._ask(backup):
                    waiting.append(backup)
                    break
            self._running = [backup for backup in self._running if not self._ended(backup)]
            if waiting or self._running:
                time.sleep(_POLL_S)
        return self._all_passed

    def _ask(self, backup: Backup) -> bool:
        """Request a verification; False when another one must end first. Skips a backup that was deleted meanwhile."""
        try:
            request_verification(self._deployment, backup.account, backup.id, self._level)
        except NotFound:
            return True
        except Unprocessable:
            with suppress(NotFound):
                found = show_backup(self._deployment, backup.account, backup.id)
                return found.proving is None or self._at_once is None
            return True
        except Unavailable as error:
            self._print(backup, status=VerificationStatus.UNKNOWN, reason=str(error))
            return True
        if self._at_once is None:
            self._print(backup, status="asked")
        else:
            self._running.append(backup)
        return True

    def _ended(self, backup: Backup) -> bool:
        try:
            found = show_backup(self._deployment, backup.account, backup.id)
        except NotFound:
            return True
        if found.proving is not None:
            return False
        at = None if found.proof_at_us is None else rfc3339(found.proof_at_us)
        self._print(
            found, status=found.proof_status, at=at, seconds=found.proof_seconds, reason=found.proof_reason,
            mend_from=found.proof_mend_from,
        )  # fmt: skip
        return True

    def _print(self, backup: Backup, *, status: str | None, **facts: str | float | None) -> None:
        self._all_passed &= status in {VerificationStatus.PASSED, "asked"}
        told = {"backup": backup.id, "account": backup.account, "level": self._level, "status": status, **facts}
        line = {name: value for name, value in told.items() if value is not None}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
