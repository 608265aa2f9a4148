"""Checks in this region's own store what a host or a peer reports of a completed backup."""

import hashlib
from typing import Protocol

from snaphold.api.stores import ObjectReader
from snaphold.errors import ObjectMissing, Permanent, Transient, Unavailable
from snaphold.objects import manifest_name


class Claimed(Protocol):
    """The facts that a report of a completed backup claims (``BackupResult``, ``PeerRecord``)."""

    @property
    def manifest_sha256(self) -> str:
        """The hash of its manifest."""

    @property
    def object_name(self) -> str:
        """The name of its data object."""

    @property
    def object_bytes(self) -> int:
        """The length of its data object."""


def why_not_stored(objects: ObjectReader, account: str, backup_id: str, claimed: Claimed) -> str | None:
    """Why the account's container has no such backup, judging by the manifest's hash and the data object's length.

    None: it has it. Only a verification checks every byte. Raises ``Unavailable`` if the store does not answer.
    """
    if claimed.object_name.partition(".")[0] != backup_id:
        return f"The object {claimed.object_name} is not backup {backup_id}'s."
    try:
        digest = hashlib.sha256()
        for piece in objects.get(account, manifest_name(backup_id), 0, None):
            digest.update(piece)
        if digest.hexdigest() != claimed.manifest_sha256:
            return f"The manifest of backup {backup_id} is another one."
        if objects.size(account, claimed.object_name) != claimed.object_bytes:
            return f"The data object of backup {backup_id} has another length."
    except ObjectMissing as error:
        what = "manifest" if error.name == manifest_name(backup_id) else "data object"
        return f"The {what} of backup {backup_id} is not in the store."
    except Permanent:
        return f"The objects of backup {backup_id} cannot be read."
    except Transient as error:
        raise Unavailable("The object store does not answer.") from error
    return None
