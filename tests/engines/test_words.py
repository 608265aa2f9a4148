"""What tenants are told of MariaDB's own messages."""

import pytest

from snaphold.engines.mariadb.words import explained, in_words


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            "[ERROR] Fatal error: Can't open and lock privilege tables: 'mysql.db' is not of type 'TABLE'",
            "the system tables in its data are not the server's own",
        ),
        ("[ERROR] InnoDB: Error number 28 means 'No space left on device'", "the disk of this host is full"),
        (
            "[00] 2026-01-01 00:00:00 Failed to connect to MariaDB server as snaphold_backup: Too many connections.",
            "every connection that the server allows is taken (max_connections)",
        ),
        (
            '[00] Error: cannot open /srv/x/instances/i/data/shop/t.ibd (Errcode: 24 "Too many open files")',
            "it needs more files than this host lets it open",
        ),
        ("[ERROR] InnoDB: Cannot allocate memory for the buffer pool", "this host has too little free memory"),
        (
            "[00] FATAL ERROR: Database page corruption detected at page 4, retrying...",
            "data are damaged",
        ),
        (
            "[00] InnoDB: Page 4 of /srv/x/instances/i/data/shop/orders.ibd is corrupted",
            "the table shop/orders is damaged",
        ),
        (
            "[00] Failed to connect to MariaDB server as snaphold_backup: Can't connect through socket '/srv/x/s' (2)",
            "the database server did not answer",
        ),
        ("[ERROR] Plugin 'InnoDB' registration as a STORAGE ENGINE failed.", "InnoDB cannot open its files"),
        ("[00] something in /srv/x that nobody has foreseen", "the log of its host says why"),
        ("", "the log of its host says why"),
    ],
    ids=[
        "system tables",
        "disk",
        "connections",
        "files",
        "memory",
        "page",
        "table",
        "socket",
        "innodb",
        "unknown",
        "silence",
    ],
)
def test_words(said: str, words: str) -> None:
    """Causes that somebody can mend are named; paths, sockets and accounts are not, nor anything that is not known."""
    assert words == in_words(said)


def test_a_tenants_page_is_in_no_log() -> None:
    """The tool prints the page that it cannot read; only lines of its own are kept, and only these are understood."""
    said = (
        "[00] 2026-11-29 14:03:48 Database page corruption detected at page 5, retrying...\n"
        " len 16384; hex 00ff; asc a row of a tenant\n Too many connections  ;"
        "[00] 2026-11-29 14:03:49 Error: failed to read page. File ./app/t.ibd seems to be corrupted.\n"
        "[00] FATAL ERROR: 2026-11-29 14:03:49 mariabackup: Error: failed to copy datafile.\n"
    )
    words, detail = explained(said)
    assert words == "the table app/t is damaged"
    assert detail.splitlines() == [
        "[00] 2026-11-29 14:03:48 Database page corruption detected at page 5, retrying...",
        "[00] 2026-11-29 14:03:49 Error: failed to read page. File ./app/t.ibd seems to be corrupted.",
        "[00] FATAL ERROR: 2026-11-29 14:03:49 mariabackup: Error: failed to copy datafile.",
    ]
