"""MariaDB as an operator may have it: with options of its own, whoever starts it."""

import shlex

from snaphold.config import Settings
from snaphold.engines.mariadb.installation import find_installation


def settings_with_options(settings: Settings, *options: str) -> Settings:
    """Settings of a host whose MariaDB adds these options to every server's command line; the last one counts."""
    assert settings.state_dir is not None
    installation = find_installation(settings.engine_dir)
    root, programs = settings.state_dir / "engine-with-options", installation.mariadbd.parent
    (root / "usr/sbin").mkdir(parents=True)
    for name in ("bin", "lib", "share"):
        (root / "usr" / name).symlink_to(installation.root / "usr" / name)
    for program in programs.iterdir():
        if program != installation.mariadbd:
            (root / "usr/sbin" / program.name).symlink_to(program)
    server = root / "usr/sbin/mariadbd"
    server.write_text(f'#!/bin/sh\nexec {shlex.quote(str(installation.mariadbd))} "$@" {shlex.join(options)}\n')
    server.chmod(0o755)
    return settings.model_copy(update={"engine_dir": root})
