"""Whether a backup that a host or a peer calls whole lies in this region's own store: looked at, not believed."""

import hashlib
from typing import Protocol

from snaphold.api.context import ObjectReader
from snaphold.errors import ObjectMissing, Permanent, Transient, Unavailable
from snaphold.objects import manifest_name


class Claimed(Protocol):
    """What is said of a backup that is whole: of BackupResult and PeerRecord."""

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
    """Why this is no backup of the account's, as far as its manifest and the length of its data tell; None: it is one.

    Whether every byte is right only a verification can tell. Raises ``Unavailable`` when the store does not answer.
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
