"""What is known of a server's names without asking it is what the server says."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from snaphold.config import Settings
from snaphold.host.servers import Servers
from snaphold.names import charset_fault, file_name_length
from tests.support.collations import FILE, STATEMENT, by_charset
from tests.support.instances import instance_spec
from tests.support.servers import installation_of, open_servers

pytestmark = pytest.mark.engine

# One character after the other, as the server names a directory after it.
FILE_NAMES = (
    "SELECT seq, OCTET_LENGTH(CONVERT(CONVERT(UNHEX(LPAD(HEX(seq), 4, '0')) USING ucs2) USING filename))"
    " FROM shop.seq_1_to_65535 WHERE seq NOT BETWEEN 0xD800 AND 0xDFFF"
)
PAIRS = [
    (None, None),
    ("utf8", "utf8_general_ci"),
    ("UTF8MB3", "utf8_bin"),
    ("utf8mb4", "uca1400_as_cs"),
    (None, "latin1_german1_ci"),
    ("binary", "binary"),
    ("latin1", "uca1400_ai_ci"),
    ("latin1", "utf8mb4_bin"),
    ("utf9", None),
    (None, "utf9_bin"),
    ("utf8mb4", "latin1_bin"),
]


@pytest.fixture(scope="module")
def server(lasting_state_dir: Path, instance_network: str) -> Iterator[tuple[Servers, str]]:
    """A host with one instance, and its id."""
    servers, spec = (
        open_servers(Settings(state_dir=lasting_state_dir, instance_networks=[instance_network])),
        instance_spec(),
    )
    servers.create(spec, 1)
    yield servers, spec.id
    servers.delete(spec.id)


def test_the_file_has_the_servers_collations(server: tuple[Servers, str]) -> None:
    """If not: ``.venv/bin/python -m tests.support.collations`` writes them anew."""
    servers, instance_id = server
    rows = servers.access(instance_id).administer(STATEMENT, 10)
    assert json.loads(FILE.read_text("ascii"))[installation_of(servers).series] == by_charset(rows)


def test_the_length_of_a_directorys_name(server: tuple[Servers, str]) -> None:
    """Every character of a database's name counts as much as the server's own encoding of it."""
    rows = server[0].access(server[1]).administer(FILE_NAMES, 30)
    assert [(code, file_name_length(chr(code))) for code, _ in rows] == list(rows)


@pytest.mark.parametrize(("charset", "collation"), PAIRS)
def test_what_is_refused_here_the_server_refuses(
    server: tuple[Servers, str], charset: str | None, collation: str | None
) -> None:
    """A character set and a collation pass here exactly when the server makes a database with them."""
    options = f"{f'CHARACTER SET {charset}' if charset else ''} {f'COLLATE {collation}' if collation else ''}"
    administer = server[0].access(server[1]).administer
    refused = None
    try:
        administer(f"CREATE OR REPLACE DATABASE made {options}", 10)
    except Exception as error:  # noqa: BLE001 - any refusal
        refused = error
    assert (charset_fault("10.11", charset, collation) is None) is (refused is None)
