"""The names of databases, character sets and collations that a MariaDB server accepts, known without asking it.

Character sets and collations differ by release series. ``collations.json`` lists those of each series; servers wrote it
(``python -m tests.support.collations``), and a test compares it with the server that the tests use. So requests are
checked without a host. For a series that is not in the file nothing is refused here, and the server decides.
"""

import json
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Final

LONGEST_FILE_NAME: Final = 255  # bytes, on every common file system
# Letters beyond ASCII that MariaDB encodes in three characters of a file name. All others take five.
_SHORT_FORMS: Final = (
    "00c0-00d6 00d8-00f6 00f8-012f 0131-01be 01c4 01c6-01c7 01c9-01ca 01cc-01f1 01f3-01f6 01f8-0241 0250-02af 0386"
    " 0388-038a 038c 038e-03a1 03a3-03ce 03d0-03d7 03d9-03f3 03f5-03f6 03f8 03fb-0481 048a-04ce 04d0-04f9 0500-050f"
    " 0531-0555 0561-0585 1e00-1e9b 1ea0-1ef9 1f00-1f15 1f18-1f1d 1f20-1f45 1f48-1f4d 1f50-1f57 1f59 1f5b 1f5d"
    " 1f5f-1f7d 1f80-1fb4 1fb6-1fbc 1fc2-1fc4 1fc6-1fcc 1fd0-1fd3 1fd6-1fdb 1fe0-1fec 1ff2-1ff3 1ff6-1ffc 2160-217f"
    " 24b6-24e9 ff21-ff3a ff41-ff5a"
)
_AS_IT_IS: Final = re.compile(r"[A-Za-z0-9_]")
_ALIAS: Final = ("utf8", "utf8mb3")  # the first is an alias of the second by default
_CONTEXTUAL: Final = "uca1400_"  # the prefix of collations that several character sets share


def file_name_length(name: str) -> int:
    """The length in bytes of the name of a database's directory. ``name``: in the Basic Multilingual Plane.

    Source: the server's character set ``filename`` (10.11.19), tried with each character.
    """
    short = _short_forms()
    return sum(1 if _AS_IT_IS.match(character) else 3 if character in short else 5 for character in name)


def charset_fault(series: str, charset: str | None, collation: str | None) -> str | None:
    """Why a server of this series refuses a character set or collation, as a sentence; None: it accepts them."""
    known = _collations().get(series)
    if known is None:
        return None
    charset, collation = (None if text is None else text.lower() for text in (charset, collation))
    if charset is not None:
        charset = _renamed(charset)
        if charset not in known:
            return f"MariaDB {series} has no character set {charset}."
    if collation is None:
        return None
    homes = {home for home, names in known.items() if _renamed(collation) in names}
    if not homes:
        return f"MariaDB {series} has no collation {collation}."
    if charset is not None and charset not in homes:
        return f"The collation {collation} is not one of character set {charset}."
    return None


def _renamed(name: str) -> str:
    """The name of a character set or collation, with the alias replaced."""
    alias, meant = _ALIAS
    return meant + name.removeprefix(alias) if name == alias or name.startswith(f"{alias}_") else name


@cache
def _collations() -> Mapping[str, Mapping[str, frozenset[str]]]:
    """The names of the collations, by series and character set."""
    text = resources.files("snaphold").joinpath("collations.json").read_text("ascii")
    return {
        series: {
            charset: frozenset(full for name in names.split(" ") for full in _names_of(charset, name))
            for charset, names in charsets.items()
        }
        for series, charsets in json.loads(text).items()
    }


def _names_of(charset: str, name: str) -> list[str]:
    """The names of a collation, which the file lists without the name of its character set."""
    full = f"{charset}_{name}" if name else charset
    return [full, name] if name.startswith(_CONTEXTUAL) else [full]


@cache
def _short_forms() -> frozenset[str]:
    found: set[str] = set()
    for part in _SHORT_FORMS.split():
        first, _, last = part.partition("-")
        found.update(map(chr, range(int(first, 16), int(last or first, 16) + 1)))
    return frozenset(found)
