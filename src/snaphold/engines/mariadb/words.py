"""Explains messages of MariaDB's server and backup tool to the owner of the database.

The messages themselves name paths and accounts of the host, so only its log gets them.
"""

import re
from typing import Final

DISK_FULL: Final = re.compile(r"No space left|[Dd]isk (is )?full|error number 28|errno: 28|error 28|Errcode: 28")

_KNOWN: Final = (
    (DISK_FULL, "the disk of this host is full"),
    (re.compile(r"Too many open files|(Errcode|errno): 24"), "it needs more files than this host lets it open"),
    (re.compile(r"Too many connections"), "every connection that the server allows is taken (max_connections)"),
    (re.compile(r"[Cc]annot allocate|[Oo]ut of memory|(Errcode|errno): 12\b"), "this host has too little free memory"),
    (
        re.compile(r"key_id is not available|[Ff]ailed to decrypt"),
        "the key that the tables are encrypted with is missing",
    ),
    (
        re.compile(
            r"[Cc]an't open and lock privilege tables|[Tt]able '(\./)?mysql[./]\w+' doesn't exist|'mysql\.\w+' is not"
        ),
        "the system tables in its data are not the server's own",
    ),
    (
        re.compile(r"Lost connection|server has gone away|[Cc]an't connect|[Ff]ailed to connect"),
        "the database server did not answer",
    ),
)
_NO_INNODB: Final = re.compile(r"'InnoDB' (init function returned error|registration as a STORAGE ENGINE failed)")
_DAMAGE: Final = re.compile(r"corrupt", re.IGNORECASE)
_TABLE: Final = re.compile(r"([^/\s'\"]+/[^/\s'\"]+)\.(?:ibd|MYD|MYI|MAD|MAI)\b")

# How the lines of the tool begin, and those of the server inside it. Such a line may follow a page without a newline.
_OWN: Final = re.compile(r"(?:\[\d\d\] |\d{4}-\d\d-\d\d +\d+:\d\d|mariabackup: |mariadb-backup: )[^\n]*")
_LINES: Final = 30
_LONGEST: Final = 500  # characters


def explained(said: str) -> tuple[str, str]:
    """Return the cause that the backup tool's messages name, and those of its lines that may be logged.

    The tool prints a page that it cannot read. It contains rows of the tenant, which must not get into any log.
    """
    own = "\n".join(line[:_LONGEST] for line in _OWN.findall(said)[-_LINES:])
    return in_words(own), own


def in_words(said: str) -> str:
    """Return the cause that these lines name, if people can do something about it."""
    for pattern, words in _KNOWN:
        if pattern.search(said):
            return words
    damage = [line for line in said.splitlines() if _DAMAGE.search(line)]
    for line in damage:
        if table := _TABLE.search(line):
            return f"the table {table[1]} is damaged"
    if damage:
        return "data are damaged"
    if _NO_INNODB.search(said):
        return "InnoDB cannot open its files"
    return "the log of its host says why"
