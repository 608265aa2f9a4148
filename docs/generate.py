"""Makes the generated pages of docs/reference from the code: settings.md, snaphold.example.toml and api.md.

Run it after a change of snaphold.config or snaphold.api; tests/docs checks that the pages are up to date.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from docs.api_page import ApiPage
from snaphold.api import described_api
from snaphold.config import FILE_ONLY, PREFIX, PeerSettings, Settings

REFERENCE = Path(__file__).parent / "reference"
_PEER_EXAMPLE: Final = {
    "url": '"https://backups.iad.example"',
    "secret_file": '"/etc/snaphold/peers/IAD.secret"',
    "store_dir": '"/mnt/iad/store"',
}


def settings_page() -> str:
    """docs/reference/settings.md."""
    rows = [
        f"| `{name}` | {_shown(field.get_default())} | `{PREFIX}{name.upper()}` | {field.description} |"
        for name, field in Settings.model_fields.items()
        if name not in FILE_ONLY
    ]
    rows += [
        f"| `peers.NAME.{name}` | {'required' if field.is_required() else 'none'} | file only | {field.description} |"
        for name, field in PeerSettings.model_fields.items()
    ]
    return "\n".join([
        "# Settings",
        "",
        "A setting comes from a flag (`--lease-s 30`), else from the file named by `--config` (TOML), else from the",
        "environment variable, else it has the default. Unknown settings are refused. Of a list: a flag may be given",
        "several times, the environment separates by commas. The name's end is the unit: `_s` seconds, `_bytes` bytes.",
        "",
        "| setting | default | environment | what it is |",
        "| --- | --- | --- | --- |",
        *rows,
        "",
        "`peers` are regions of other deployments that copies may go to and come from, each a table `[peers.NAME]` of",
        "the file: [join-regions.md](../how-to/join-regions.md) tells how two deployments are joined.",
        "",
    ])  # fmt: skip


def example_file() -> str:
    """docs/reference/snaphold.example.toml: every setting with its default, commented out where it has none."""
    lines = ["# Settings of snaphold, with their defaults. Use: snaphold serve --config snaphold.toml", ""]
    for name, field in Settings.model_fields.items():
        if name in FILE_ONLY:
            continue
        default = field.get_default()
        lines.append(f"# {field.description}")
        lines.append(f"# {name} =" if default in (None, []) else f"{name} = {json.dumps(default)}")
        lines.append("")
    lines += [f"# {Settings.model_fields['peers'].description}: a table each", "# [peers.IAD]"]
    for name, field in PeerSettings.model_fields.items():
        lines += [f"# {field.description}", f"# {name} = {_PEER_EXAMPLE[name]}"]
    return "\n".join(lines) + "\n"


def pages() -> Mapping[Path, str]:
    """Every generated page."""
    return {
        REFERENCE / "settings.md": settings_page(),
        REFERENCE / "snaphold.example.toml": example_file(),
        REFERENCE / "api.md": ApiPage(described_api().openapi()).text(),
    }


def _shown(default: Any) -> str:
    return "none" if default in (None, []) else f"`{json.dumps(default)}`"


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, "utf-8")
