"""Writes MariaDB's option files so that every value is read back unchanged, and reads those of backups as untrusted.

mariabackup writes ``backup-my.cnf`` into every backup. When it prepares a backup it always reads that file, even if it
is given another one. The file may name a library to load, so the file of a backup is never used: its known values are
checked and written to a new file.

Source: ``write_backup_config_file`` of mariabackup 10.11 and 11.8; ``my_default.c`` of the server for the syntax.
"""

import os
import re
from collections.abc import Mapping
from typing import Final

from snaphold.errors import Permanent

KEY_PLUGIN: Final = "file_key_management"
_CHECKSUMS: Final = "|".join(
    f"{strict}{kind}" for strict in ("", "strict_") for kind in ("full_crc32", "crc32", "innodb", "none")
)
_DATA_FILE: Final = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}:[0-9]{1,15}[KMG]?"
_LARGEST_LOG_BYTES: Final = 512 << 30  # the server's limit
_CHECKED: Final = {
    "innodb_checksum_algorithm": re.compile(_CHECKSUMS),
    "innodb_data_file_path": re.compile(
        rf"{_DATA_FILE}(;{_DATA_FILE}){{0,31}}(:autoextend(:max:[0-9]{{1,15}}[KMG]?)?)?"
    ),
    "innodb_page_size": re.compile("4096|8192|16384|32768|65536"),
    "innodb_undo_tablespaces": re.compile("[0-9]|[1-9][0-9]|1[01][0-9]|12[0-7]"),
    "innodb_compression_level": re.compile("[0-9]"),
    "innodb_encrypt_log": re.compile("[01]|ON|OFF"),
}
_LOG_SIZE: Final = "innodb_log_file_size"
_UNITS: Final = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_ESCAPES: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n", "\r": r"\r", "\t": r"\t"})


def quoted(value: str) -> str:
    """Quote a value for an option file, so that spaces and ``#`` have no special meaning."""
    return f'"{value.translate(_ESCAPES)}"'


def option_file(group: str, options: Mapping[str, str]) -> bytes:
    """Return the text of one group of an option file."""
    lines = [f"[{group}]", *(f"{key}={quoted(value)}" for key, value in options.items())]
    return os.fsencode("\n".join(lines) + "\n")


def innodb_options(text: bytes) -> dict[str, str]:
    """Return the options that InnoDB needs to prepare a backup, from the backup's option file. Others are ignored.

    Raises:
        Permanent: mariabackup never writes such a value, or the page size or the data files are missing.
    """
    pairs = _pairs(text)
    options = {key: pairs[key] for key in _CHECKED if key in pairs}
    for key, value in options.items():
        if not _CHECKED[key].fullmatch(value):
            raise Permanent(f"the backup's option file is not the backup tool's: {key}={value[:80]!r}")
    size = pairs.get(_LOG_SIZE, "")
    if size:
        if not size.isascii() or not size.isdecimal() or len(size) > 15 or int(size) > _LARGEST_LOG_BYTES:
            raise Permanent(f"the backup's option file is not the backup tool's: {_LOG_SIZE}={size[:80]!r}")
        options[_LOG_SIZE] = size
    missing = {"innodb_page_size", "innodb_data_file_path"} - options.keys()
    if missing:
        raise Permanent(f"the backup's option file does not say {' and '.join(sorted(missing))}")
    return options


def data_files(path_option: str) -> list[tuple[str, int]]:
    """Return the name and the minimum size in bytes of each file in a checked ``innodb_data_file_path``."""
    found = []
    for entry in path_option.partition(":autoextend")[0].split(";"):
        name, _, size = entry.partition(":")
        unit = _UNITS.get(size[-1:], 1)
        found.append((name, int(size.rstrip("KMG")) * unit))
    return found


def key_plugin(text: bytes) -> str | None:
    """Return the name of the source server's encryption key plugin; None when nothing is encrypted.

    The name only explains what is missing. The host's settings decide which plugin is loaded, and from where.
    """
    name = _pairs(text).get("plugin_load", "").partition("=")[0].partition(";")[0].strip()
    return name[:64] or None


def _pairs(text: bytes) -> dict[str, str]:
    """Return the last value of each key, of any group. The backup tool never quotes values."""
    pairs = {}
    for line in text.decode("utf-8", "replace").splitlines():
        key, separator, value = line.partition("=")
        if separator and not key.lstrip().startswith(("#", ";")):
            pairs[key.strip().replace("-", "_")] = value.strip()
    return pairs
