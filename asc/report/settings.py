"""The settings of runs, from their .hydra/config.yaml, and what differs between them."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from asc.errors import InputError, printable
from asc.plain_yaml import read_yaml

INCIDENTAL = (  # settings that do not define a system
    *("seed", "run_dir", "checkpoint", "init", "trusted", "compile", "logger", "model."),
    *("data.root", "data.fold", "data.seed", "data.cache", "data.num_workers", "data.missing"),
    *("trainer.accelerator", "trainer.devices", "trainer.default_root_dir"),
)
SOURCE = "source."  # before the settings of the run that a run started from


def read_settings(directory: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """All settings of a run by dotted name, with those of the run it started from; without the INCIDENTAL ones.

    Args:
        directory: of the run.
        seen: runs that started from this one.

    Raises:
        InputError: its settings are unreadable.
    """
    file = directory / ".hydra/config.yaml"
    if not file.is_file():
        return {}
    try:
        content = read_yaml(file) or {}
        settings = {name: value for name, value in flatten(content) if not name.startswith(INCIDENTAL)}
    except (OSError, ValueError, AttributeError) as error:  # AttributeError: a list or a number
        raise InputError(f"{file} does not hold a run's settings: repeat the run or leave it out") from error
    checkpoint = content.get("checkpoint") or ""
    source = Path(str(checkpoint[0] if isinstance(checkpoint, list) and checkpoint else checkpoint)).parent
    for before in (source, source.parent):
        if content.get("phase") and before not in (directory, *seen) and os.path.isdir(before / ".hydra"):
            theirs = read_settings(before, (directory, *seen))
            settings |= {SOURCE + name: value for name, value in theirs.items()}
    return settings


def flatten(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of nested settings."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def effective(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that a run had: what compress.py leaves open (null) is that of the run it started from.

    >>> effective({"optimizer.lr": 1e-4, "sample_rate": None, "source.optimizer.lr": 3e-3, "source.sample_rate": 16000})
    {'optimizer.lr': 0.0001, 'sample_rate': 16000}
    """
    own = {name: value for name, value in settings.items() if not name.startswith(SOURCE)}
    source = {name.removeprefix(SOURCE): value for name, value in settings.items() if name.startswith(SOURCE)}
    inherited = effective(source) if source else {}
    return own | {name: value for name, value in inherited.items() if own.get(name) is None}


def differing(runs: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    """The settings in which runs differ, by name, as text; a setting that a run does not have is empty.

    >>> differing([{"a": 1, "b": None}, {"a": 2, "b": None}])
    {'a': ['1', '2']}
    """
    settings = [effective(run) for run in runs]
    names = dict.fromkeys(name for run in settings for name in run if not name.endswith(("_recursive_", "_convert_")))
    differ = [name for name in names if any(run.get(name) != settings[0].get(name) for run in settings)]
    return {printable(name): [written(run[name]) if name in run else "" for run in settings] for name in differ}


def written(value: Any) -> str:
    """A setting's value as one writes it on the command line."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else printable(str(value))
