"""Generates settings.md, snaphold.example.toml and api.md in docs/reference from the code.

Run it after a change of snaphold.config, snaphold.schemas or snaphold.api. tests/docs checks the pages.
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
        "The value of a setting comes from the first of these that has it: the flag (`--lease-s 30`), the TOML file of",
        "`--config`, the environment variable, the default. Unknown settings are refused. For a list, repeat the flag,",
        "or separate values by commas in the variable. The end of a name is the unit: `_s` seconds, `_bytes` bytes.",
        "",
        "| setting | default | environment | what it is |",
        "| --- | --- | --- | --- |",
        *rows,
        "",
        "`peers` are regions of other deployments that can send or receive copies. Each is a table `[peers.NAME]` of",
        "the settings file; see [join-regions.md](../how-to/join-regions.md).",
        "",
    ])  # fmt: skip


def example_file() -> str:
    """docs/reference/snaphold.example.toml: every setting with its default, or commented out if it has none."""
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
