"""How each engine stores the passwords of database users. The API hashes a password before it goes anywhere else."""

from collections.abc import Callable, Mapping
from typing import Final

from snaphold.engines.mariadb.accounts import native_hash

PASSWORD_HASHES: Final[Mapping[str, Callable[[str], str]]] = {"mariadb": native_hash}  # by datastore
