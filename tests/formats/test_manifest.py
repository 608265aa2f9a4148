"""Manifests that earlier releases wrote are read by every later one (docs/reference/format.md)."""

import json
import re
from pathlib import Path
from typing import Any, Final

import pytest

from snaphold.errors import Damaged
from snaphold.formats.manifest import Manifest, load, parse, sha256_of

KEPT: Final = Path(__file__).parent / "kept"  # as they were written; never to be changed


def kept(version: int) -> bytes:
    """A manifest of this version as the first release wrote it that did."""
    return (KEPT / f"manifest-{version}.json").read_bytes()


def changed(**values: object) -> bytes:
    """A manifest of version 1 that says something else."""
    return json.dumps(json.loads(kept(1)) | values).encode()


def assert_holds(read: dict[str, Any], written: dict[str, Any]) -> None:
    """What was written is read, at every depth; what is read may have keys that came later."""
    for key, value in written.items():
        if isinstance(value, dict):
            assert_holds(read[key], value)
        else:
            assert read[key] == value, key


def test_a_manifest_of_version_1() -> None:
    """Every value is read as it was written; keys that came later have the values that were true then."""
    document = kept(1)
    manifest = load(document, name="1.json", sha256=sha256_of(document))
    assert_holds(manifest.model_dump(), json.loads(document))
    assert (manifest.made, manifest.made_from, manifest.made_from_region) == ("taken", None, None)


def test_a_key_of_a_later_release() -> None:
    """Keys that a later release adds within a version do not disturb an earlier one."""
    assert parse(changed(later={"a": 1}), name="1.json") == parse(kept(1), name="1.json")


@pytest.mark.parametrize("values", [{"version": 2}, {"version": 0}, {"format": "another"}], ids=str)
def test_a_format_that_is_not_known(values: dict[str, object]) -> None:
    """A version that this release does not know is refused, and not guessed at."""
    with pytest.raises(Damaged, match="cannot be understood"):
        parse(changed(**values), name="1.json")


def test_what_is_written_is_what_the_page_says() -> None:
    """Sorted keys, a line each, one space a level: so that standard tools can pick values out."""
    text = parse(kept(1), name="1.json").dump().decode()
    assert text == json.dumps(json.loads(text), indent=1, sort_keys=True) + "\n"
    assert Manifest.model_validate_json(text) == parse(kept(1), name="1.json")


def nested(**path_values: object) -> dict[str, object]:
    """Values of a manifest that says something else below the top; ``a__b``: key b of a."""
    document = json.loads(kept(1))
    for path, value in path_values.items():
        key, _, below = path.partition("__")
        document[key][below] = value
    return dict(document)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("id", {"id": "../1"}),
        ("account", {"account": "a/b"}),
        ("name", {"name": ""}),
        ("name", {"name": "a\0"}),
        ("name", {"name": "a" * 65}),
        ("instance_id", {"instance_id": ""}),
        ("parent_id", {"parent_id": "another"}),
        ("volume_gb", {"volume_gb": -1}),
        ("size_bytes", {"size_bytes": 1 << 63}),
        ("created", {"created": "0001-01-01T00:00:00Z"}),
        ("datastore.type", nested(datastore__type="../../etc/passwd")),
        ("lineage.to_lsn", nested(lineage__to_lsn=-1)),
        ("data.name", nested(data__name="snaphold/x")),
        ("index.name", nested(index__name="../x")),
        ("segment_size_bytes", {"segment_size_bytes": 1 << 40}),
        ("the segments do not add up", nested(data__size_bytes=16)),
        ("segments", {"segments": []}),
    ],
    ids=str,
)
def test_values_that_no_backup_has(field: str, values: dict[str, object]) -> None:
    """A manifest is hostile input: each value has a form and a range, and the message names the field."""
    with pytest.raises(Damaged, match=rf"cannot be understood.*{re.escape(field)}"):
        parse(changed(**values), name="1.json")
