"""Encryption of data at rest: the keys that the servers and tools of this host use.

They come from the host's settings, never from a backup. MariaDB's plugin file_key_management reads all keys from one
file. A backup can be restored on a host that has the same keys.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from snaphold.engines.mariadb.installation import Installation
from snaphold.engines.mariadb.options import KEY_PLUGIN
from snaphold.errors import SetupError

_LIBRARY: Final = f"{KEY_PLUGIN}.so"
_PLUGIN_DIRECTORIES: Final = ("usr/lib", "usr/lib64", "usr/local/lib", "usr/local/mysql/lib", "lib", "lib64")
_LARGEST_KEY_FILE: Final = 64 << 10  # bytes


@dataclass(frozen=True, kw_only=True)
class KeyManagement:
    """The keys of this host and the plugin that reads them."""

    library: Path  # file_key_management.so of the installation
    keys: bytes  # the text of the key file

    @classmethod
    def found(cls, installation: Installation, key_file: Path | None) -> Self | None:
        """Read the keys in ``key_file``. None means that nothing is encrypted.

        Raises:
            SetupError: the file cannot be read, or MariaDB's plugin for it is not installed.
        """
        if key_file is None:
            return None
        try:
            keys = key_file.read_bytes()
        except OSError as error:
            raise SetupError(
                f"the key file {key_file} (encryption_key_file) cannot be read: {error.strerror}"
            ) from error
        if not keys.strip() or len(keys) > _LARGEST_KEY_FILE:
            raise SetupError(f"the key file {key_file} (encryption_key_file) is empty or too large")
        return cls(library=_library_of(installation), keys=keys)


def _library_of(installation: Installation) -> Path:
    for directory in _PLUGIN_DIRECTORIES:
        for package in ("mysql", "mariadb"):
            library = installation.root / directory / package / "plugin" / _LIBRARY
            if os.access(library, os.R_OK):
                return library
    raise SetupError(f"MariaDB's plugin {_LIBRARY} is not installed, and encryption_key_file needs it")
