"""What MariaDB's server and its backup tool say, in words for those whose database it is.

Their own lines name paths and accounts of the host, and are for its log.
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

# How a line of the tool's, or of the server inside it, begins; it may come right behind a page without an end of line.
_OWN: Final = re.compile(r"(?:\[\d\d\] |\d{4}-\d\d-\d\d +\d+:\d\d|mariabackup: |mariadb-backup: )[^\n]*")
_LINES: Final = 30
_LONGEST: Final = 500  # characters


def explained(said: str) -> tuple[str, str]:
    """The cause that the backup tool's messages tell of, and the lines of its own among them.

    A page that it cannot read it prints as it is: the rows in it are the tenant's, and are kept out of every log.
    """
    own = "\n".join(line[:_LONGEST] for line in _OWN.findall(said)[-_LINES:])
    return in_words(own), own


def in_words(said: str) -> str:
    """The cause that these lines tell of, where it is one that people can do something about."""
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
