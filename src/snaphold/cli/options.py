"""Settings as flags: most fields of config.Settings are options of every command that starts from settings."""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from snaphold.config import FILE_ONLY, Settings, is_list, load_settings
from snaphold.errors import SetupError
from snaphold.wiring.state_directory import StateDirectory

_ADMIN: Final = ("state_dir", "store_dir", "region")  # what a command needs that only opens the state directory
_DETAILS: Final = "docs/reference/settings.md describes all settings in one table."
_PANELS: Final = {  # of the help; each begins at the setting named
    "state_dir": "Service",
    "engine_dir": "Instances",
    "codec": "Backups",
    "lease_s": "Agents and hosts",
    "max_running_backups_per_account": "Limits of an account",
    "max_body_bytes": "Requests and tokens",
    "sweep_interval_s": "Upkeep",
    "log_format": "Log",
}


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a command was given. ``settings``: merged from the flags, the settings file and the environment."""

    settings: Settings
    flags: Mapping[str, Any]
    config: Path | None

    @property
    def state_dir(self) -> Path:
        """The absolute path of the state directory. Raises ``SetupError`` when none was given."""
        if self.settings.state_dir is None:
            raise SetupError("no state directory was given (--state-dir DIR)")
        return self.settings.state_dir.absolute()

    @property
    def state(self) -> StateDirectory:
        """The state directory. Raises ``SetupError`` when none was given."""
        store_dir = self.settings.store_dir
        return StateDirectory(self.state_dir, None if store_dir is None else store_dir.absolute())

    def argv(self, **instead: Any) -> list[str]:
        """The same flags for a child process. The flags in ``instead`` replace ours."""
        words = [] if self.config is None else [f"--config={self.config.absolute()}"]
        for name, value in {**self.flags, **instead}.items():
            texts = value if isinstance(value, (list, tuple)) else [value]
            words += [f"--{name.replace('_', '-')}={text}" for text in texts]
        return words


def command(
    where: typer.Typer, name: str, options: Callable[..., Callable[..., None]]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as the command ``name`` of ``where``, with the options that ``options`` adds to it.

    The function's docstring is the command's help.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        epilog = _DETAILS if options is with_settings else None
        return where.command(name, help=function.__doc__, epilog=epilog)(options(function))

    return register


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give ``command(given: Given, …)`` an option for each setting that can be a flag, and ``--config``."""
    return _with_options(command, tuple(name for name in Settings.model_fields if name not in FILE_ONLY))


def with_state(command: Callable[..., None]) -> Callable[..., None]:
    """Give ``command(given: Given, …)`` the options ``--state-dir``, ``--store-dir``, ``--region`` and ``--config``."""
    return _with_options(command, _ADMIN)


def _with_options(command: Callable[..., None], names: tuple[str, ...]) -> Callable[..., None]:
    @functools.wraps(command)
    def run(config: Path | None = None, **arguments: Any) -> None:
        flags = {name: value for name in names if (value := arguments.pop(name, None)) not in (None, [])}
        command(Given(settings=load_settings(flags, config), flags=flags, config=config), **arguments)

    own = list(inspect.signature(command).parameters.values())[1:]
    options = [_option(name, None if names is _ADMIN else _panel(name)) for name in names]
    options.append(
        _keyword(
            "config",
            Annotated[Path | None, typer.Option("--config", metavar="FILE", help="a settings file (TOML)")],
        )
    )
    signature = inspect.Signature([*own, *options])
    run.__signature__ = signature  # type: ignore[attr-defined] # typer reads it
    run.__annotations__ = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    del run.__wrapped__
    return run


def _option(name: str, panel: str | None) -> inspect.Parameter:
    """The option of a setting. Its value stays text: only config.Settings says which values are allowed."""
    field = Settings.model_fields[name]
    repeated = is_list(name)
    default = field.get_default()
    shown = "" if default in (None, []) else f" (default: {', '.join(map(str, default)) if repeated else default})"
    option = typer.Option(
        f"--{name.replace('_', '-')}",
        metavar=_metavar(name),
        help=f"{field.description}{shown}",
        show_default=False,
        rich_help_panel=panel,
    )
    return _keyword(name, Annotated[list[str] | None if repeated else str | None, option])


def _panel(name: str) -> str:
    """The panel of the help in which a setting is shown: settings of one panel follow each other in config.Settings."""
    names = list(Settings.model_fields)
    return next(_PANELS[each] for each in reversed(names[: names.index(name) + 1]) if each in _PANELS)


def _metavar(name: str) -> str:
    if name == "region":
        return "NAME=ADDRESS:PORT"
    return (
        "N" if Settings.model_fields[name].annotation in {int, float, float | None} else name.rsplit("_", 1)[-1].upper()
    )


def _keyword(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
