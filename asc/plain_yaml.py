"""YAML files that somebody else may have written, read as plain values."""

from pathlib import Path
from typing import Any

import yaml

from asc.files import regular

LARGEST, DEEPEST = 1_000_000, 50  # bytes, nested collections


def read_yaml(path: Path) -> Any:
    """The values in a YAML file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not YAML, or holds what Hydra never writes.
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
    """Refuse aliases, which expand a few lines to gigabytes, and deep nesting, before values are built.

    Raises:
        ValueError: the text holds either.
    """
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or depth > DEEPEST:
            raise ValueError("it holds an alias, or is nested too deep")
