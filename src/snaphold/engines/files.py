"""The files of one database server, as the host lays them out and an engine uses them (``host/directory.py``)."""

from pathlib import Path
from typing import Final


class ServerFiles:
    """The paths of one server. They exist only as far as the host or the engine has made them."""

    def __init__(self, path: Path) -> None:
        self.path: Final = path
        self.data: Final = path / "data"
        self.socket: Final = path / "run" / "s"
        self.pid_file: Final = path / "run" / "pid"
        self.error_log: Final = path / "log" / "error.log"
        self.start_log: Final = path / "start.log"
        self.tool_log: Final = path / "backup.log"
        self.init_sql: Final = path / "init.sql"
        self.admin_file: Final = path / "admin.cnf"
        self.backup_file: Final = path / "backup.cnf"
        self.super_file: Final = path / "super.cnf"
        self.run: Final = path / "run"
        self.log: Final = path / "log"
        self.temporary: Final = path / "tmp"
        self.scratch: Final = path / "scratch"
        self.files: Final = path / "files"
        self.plugins: Final = path / "plugins"
        self.keys: Final = path / "keys"
