"""What the user gave cannot work, and here is what to do."""

from typing import Any


class InputError(ValueError):
    """A mistake in the input. Its message is one sentence that names the file or setting, the fault and the remedy."""


def check(setting: str, value: Any, kind: type[int] | type[float], low: float, high: float = float("inf")) -> None:
    """Refuse a setting that is not a number of its kind from `low` to `high`.

    Raises:
        InputError: names the setting and what it may be.
    """
    number = isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    if not (number and low <= value <= high):
        noun = "a whole number" if kind is int else "a number"
        span = f"from {low} to {high}" if high < float("inf") else f"of at least {low}"
        raise InputError(f"{setting}={value} will not do: give {noun} {span}")
