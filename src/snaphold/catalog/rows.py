"""Rows of backups made objects without the constructor of a frozen dataclass, which takes a sixth of a list's time.

``python -m bench`` measures it: the requests a second of the API (bench/api.py). Where it no longer pays, the
constructor takes its place here.
"""

from typing import Any, Final

from snaphold.model import Backup, BackupStatus, Origin, VerificationLevel, VerificationStatus

_ENUMS: Final = {
    "status": BackupStatus,
    "made": Origin,
    "proving": VerificationLevel,
    "proof_status": VerificationStatus,
    "proof_level": VerificationLevel,
}


def backup_of(values: dict[str, Any]) -> Backup:
    """The backup with these values, by column; the dictionary belongs to the backup afterwards."""
    for name, kind in _ENUMS.items():
        values[name] = None if values[name] is None else kind(values[name])
    backup = object.__new__(Backup)
    backup.__dict__.update(values)
    return backup
