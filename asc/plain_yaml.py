"""YAML files that somebody else may have written, read as plain values."""

from pathlib import Path
from typing import Any

import yaml

from asc.files import regular

LARGEST, DEEPEST = 1_000_000, 50  # bytes, collections in each other


def read_yaml(path: Path) -> Any:
    """The values in a YAML file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no YAML, or no such file as Hydra writes.
    """
    if regular(path).stat().st_size > LARGEST:
        raise ValueError(f"it has more than {LARGEST:,} bytes")
    text = path.read_text(encoding="utf-8")
    try:
        check_events(text)
        values = yaml.safe_load(text)
        repr(values)  # raises ValueError if a number is too long to be printed
    except (yaml.YAMLError, TypeError, AttributeError) as error:
        raise ValueError(" ".join(str(error).split())) from error
    return values


def check_events(text: str) -> None:
    """Refuse aliases, by which a few lines become gigabytes, and what is nested too deep, before values are made.

    Raises:
        ValueError: it holds such.
    """
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or depth > DEEPEST:
            raise ValueError("it holds an alias, or is nested too deep")
