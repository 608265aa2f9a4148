"""The character sets and collations of a server, as ``src/snaphold/collations.json`` keeps them for its series."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from snaphold import names
from snaphold.config import Settings
from tests.support.instances import instance_spec
from tests.support.servers import installation_of, open_servers

STATEMENT = (
    "SELECT CHARACTER_SET_NAME, FULL_COLLATION_NAME FROM information_schema.COLLATION_CHARACTER_SET_APPLICABILITY"
)
FILE = Path(names.__file__).with_name("collations.json")


def by_charset(rows: Sequence[tuple[Any, ...]]) -> dict[str, str]:
    """The collations of each character set, with spaces between, and without the character set's name before each."""
    found: dict[str, list[str]] = {}
    for charset, collation in sorted(rows):
        found.setdefault(charset, []).append(collation.removeprefix(charset).removeprefix("_"))
    return {charset: " ".join(collations) for charset, collations in found.items()}


def main() -> None:
    """Write those of the server that the tests run on into the file."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        servers, spec = open_servers(Settings(state_dir=Path(directory))), instance_spec(databases=(), users=[])
        servers.create(spec, 1)
        try:
            rows = servers.access(spec.id).administer(STATEMENT, 10)
        finally:
            servers.delete(spec.id)
    known = json.loads(FILE.read_text("ascii")) if FILE.exists() else {}
    known[installation_of(servers).series] = by_charset(rows)
    FILE.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", "ascii")


if __name__ == "__main__":
    main()
