"""What tenants are told of MariaDB's own messages."""

import pytest

from snaphold.engines.words import in_words


@pytest.mark.parametrize(
    ("said", "words"),
    [
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
        ("[00] something in /srv/x that nobody has foreseen", "the log of its host says why"),
        ("", "the log of its host says why"),
    ],
    ids=["disk", "connections", "files", "memory", "page", "table", "socket", "unknown", "silence"],
)
def test_words(said: str, words: str) -> None:
    """Causes that somebody can mend are named; paths, sockets and accounts are not, nor anything that is not known."""
    assert words == in_words(said)
