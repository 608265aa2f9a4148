"""Settings as flags: nearly every field of config.Settings is an option of every command that starts from settings."""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from snaphold.config import FILE_ONLY, Settings, is_list, load_settings
from snaphold.errors import SetupError
from snaphold.wiring.state_directory import StateDirectory

_ADMIN = ("state_dir", "store_dir", "region")  # what a command that only looks into the state directory needs


@dataclass(frozen=True, kw_only=True)
class Given:
    """What stood on the command line and what the settings are with it, the file and the environment."""

    settings: Settings
    flags: Mapping[str, Any]
    config: Path | None

    @property
    def state_dir(self) -> Path:
        """The state directory, absolute. Raises ``SetupError`` where none was given."""
        if self.settings.state_dir is None:
            raise SetupError("no state directory was given (--state-dir DIR)")
        return self.settings.state_dir.absolute()

    @property
    def state(self) -> StateDirectory:
        """What lies where in the state directory. Raises ``SetupError`` where none was given."""
        store_dir = self.settings.store_dir
        return StateDirectory(self.state_dir, None if store_dir is None else store_dir.absolute())

    def argv(self, **instead: Any) -> list[str]:
        """The same flags for a process that we start; those of ``instead`` replace ours."""
        words = [] if self.config is None else [f"--config={self.config.absolute()}"]
        for name, value in {**self.flags, **instead}.items():
            texts = value if isinstance(value, (list, tuple)) else [value]
            words += [f"--{name.replace('_', '-')}={text}" for text in texts]
        return words


def command(
    where: typer.Typer, name: str, options: Callable[..., Callable[..., None]]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function a command of ``where``, with the options that ``options`` gives it; its docstring is the help."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        return where.command(name, help=function.__doc__)(options(function))

    return register


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give ``command(given: Given, …)`` an option for each setting that can be a flag, and ``--config``."""
    return _with_options(command, tuple(name for name in Settings.model_fields if name not in FILE_ONLY))


def with_state(command: Callable[..., None]) -> Callable[..., None]:
    """Give ``command(given: Given, …)`` the options ``--state-dir``, ``--region`` and ``--config``."""
    return _with_options(command, _ADMIN)


def _with_options(command: Callable[..., None], names: tuple[str, ...]) -> Callable[..., None]:
    @functools.wraps(command)
    def run(config: Path | None = None, **arguments: Any) -> None:
        flags = {name: value for name in names if (value := arguments.pop(name, None)) not in (None, [])}
        command(Given(settings=load_settings(flags, config), flags=flags, config=config), **arguments)

    own = list(inspect.signature(command).parameters.values())[1:]
    options = [_option(name) for name in names]
    options.append(
        _keyword(
            "config",
            Annotated[Path | None, typer.Option("--config", metavar="FILE", help="a settings file (TOML)")],
        )
    )
    signature = inspect.Signature([*own, *options])
    run.__signature__ = signature  # type: ignore[attr-defined] # what typer reads
    run.__annotations__ = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    del run.__wrapped__
    return run


def _option(name: str) -> inspect.Parameter:
    """Text, so that there is one place that says what a value may be: config.Settings."""
    field = Settings.model_fields[name]
    repeated = is_list(name)
    default = field.get_default()
    told = "" if default in (None, []) else f" (default: {', '.join(map(str, default)) if repeated else default})"
    option = typer.Option(
        f"--{name.replace('_', '-')}", metavar=_metavar(name), help=f"{field.description}{told}", show_default=False
    )
    return _keyword(name, Annotated[list[str] | None if repeated else str | None, option])


def _metavar(name: str) -> str:
    return "NAME=ADDRESS:PORT" if name == "region" else name.removesuffix("_per_s").rsplit("_", 1)[-1].upper()


def _keyword(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
