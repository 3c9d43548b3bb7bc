"""Errors in the user's input, and the format of their messages."""

from collections.abc import Sequence
from typing import Any


class InputError(ValueError):
    """Invalid input. The message names the file or setting, what is expected or failed, and the remedy."""


class WriteError(InputError):
    """A file cannot be written."""


class SweepError(InputError):
    """No run of a sweep can start."""


class TooLargeError(InputError):
    """A network is larger than max_size_kb allows.

    Attributes:
        objective: value for a search; negative, and lower for a larger network.
    """

    def __init__(self, size_kb: float, max_size_kb: float):
        super().__init__(f"the network has {size_kb:.1f} KB, more than max_size_kb={max_size_kb:g}: make it smaller")
        self.objective = 1 - size_kb / max_size_kb


def one_line(error: BaseException) -> str:
    """The message without line breaks, or the exception's class if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def printable(text: str) -> str:
    """The string with control characters escaped: in a file name they could change what a terminal shows."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def check_number(
    setting: str, value: Any, kind: type[int] | type[float], low: float, high: float = float("inf")
) -> None:
    """Reject a setting that is not a number of type `kind` from `low` to `high`.

    Raises:
        InputError: names the setting, its value and what is expected.
    """
    is_number = isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    if not (is_number and low <= value <= high):
        noun = "an integer" if kind is int else "a number"
        expected = f"{noun} from {low} to {high}" if high < float("inf") else f"{noun} >= {low}"
        raise InputError(f"invalid {setting}={value}: expected {expected}")


def check_choice(setting: str, value: Any, choices: Sequence[Any]) -> None:
    """Reject a setting that is not one of `choices`.

    Raises:
        InputError: names the setting, its value and the choices.
    """
    if not any(value is choice or (type(value) is type(choice) and value == choice) for choice in choices):
        names = ["null" if choice is None else str(choice).lower() for choice in choices]
        raise InputError(f"invalid {setting}={value}: expected {' or '.join(names)}")
