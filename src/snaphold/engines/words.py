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
        re.compile(r"Lost connection|server has gone away|[Cc]an't connect|[Ff]ailed to connect"),
        "the database server did not answer",
    ),
)
_DAMAGE: Final = re.compile(r"corrupt", re.IGNORECASE)
_TABLE: Final = re.compile(r"([^/\s'\"]+/[^/\s'\"]+)\.(?:ibd|MYD|MYI|MAD|MAI)\b")


def in_words(said: str) -> str:
    """The cause that these lines tell of, where it is one that people can do something about."""
    for pattern, words in _KNOWN:
        if pattern.search(said):
            return words
    for line in said.splitlines():
        if _DAMAGE.search(line):
            table = _TABLE.search(line)
            return "data are damaged" if table is None else f"the table {table[1]} is damaged"
    return "the log of its host says why"
