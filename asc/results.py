"""Read the results.json of a finished run and check it, since others may have written it."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asc.errors import InputError, printable
from asc.files import regular

LIMITS = {  # lowest and highest plausible value
    "accuracy": (0, 1),
    "macro_accuracy": (0, 1),
    "log_loss": (0, 1e6),
    "parameters": (1, 1e12),
    "nonzero_parameters": (0, 1e12),
    "size_kb": (0, 1e12),
    "dcase2020_size_kb": (0, 1e12),
    "macs": (0, 1e18),
    "file_bytes": (0, 1e15),
    "epochs": (0, 1e9),
}
PRECISIONS = {"float": "float", "pruned": "float", "qat": "fake-quantized", "int8": "int8"}  # by stage


@dataclass(frozen=True)
class Results:
    """The content of a run's results.json.

    Attributes:
        stage: float, pruned, qat or int8.
        labels: names of the scenes.
        checkpoint: of the tested network, as recorded.
        metrics: the values of LIMITS.
        confusion: numbers of test clips; row = true class, column = predicted class.
    """

    stage: str
    labels: tuple[str, ...]
    checkpoint: Path
    metrics: dict[str, float]
    confusion: tuple[tuple[int, ...], ...]

    @property
    def class_accuracy(self) -> dict[str, float | None]:
        """Fraction of each label's test clips that are classified correctly; None for a label without clips."""
        diagonal = [row[index] / sum(row) if sum(row) else None for index, row in enumerate(self.confusion)]
        return dict(zip(self.labels, diagonal, strict=True))


def read_results(file: Path) -> Results:
    """Read a results.json.

    Raises:
        InputError: a value is missing or impossible; names it.
    """
    try:
        content = json.loads(regular(file).read_text())
        values = {**content["test"], **content["complexity"], "epochs": content["training"]["epochs"]}
        labels, matrix = content["labels"], content["test"]["confusion_matrix"]
        if content["stage"] not in PRECISIONS:
            raise ValueError(f"stage={content['stage']}")
        if not (isinstance(labels, list) and len(labels) == len(set(map(str, labels))) >= 2):
            raise ValueError(f"labels={labels}")
        return Results(
            stage=content["stage"],
            labels=tuple(printable(str(label)) for label in labels),
            checkpoint=Path(content["checkpoint"]),
            metrics={name: number(name, values[name]) for name in LIMITS},
            confusion=clips_by_class(matrix, len(labels)),
        )
    except KeyError as error:
        raise not_of_a_run(file, f"it has no {error.args[0]}") from error
    except TypeError as error:
        raise not_of_a_run(file, "a value is of another type") from error
    except (OSError, ValueError, RecursionError) as error:  # RecursionError: nested without end
        is_json = not isinstance(error, json.JSONDecodeError | UnicodeDecodeError | RecursionError | OSError)
        raise not_of_a_run(file, shorten(str(error)) if is_json else "unreadable") from error


def not_of_a_run(file: Path, fault: str) -> InputError:
    """The error about a file that no run writes."""
    return InputError(printable(f"{file} is not what a finished run writes ({fault}): repeat the run or leave it out"))


def shorten(text: str, length: int = 60) -> str:
    """The text, cut off where it is long."""
    return text if len(text) <= length else f"{text[: length - 3]}..."


def number(name: str, value: Any) -> float:
    """The value of a metric.

    Raises:
        ValueError: it is no number within LIMITS.
    """
    low, high = LIMITS[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(f"{name}={value}")
    return float(value)


def clips_by_class(matrix: Any, classes: int) -> tuple[tuple[int, ...], ...]:
    """A confusion matrix as integers.

    Raises:
        ValueError: it is no matrix of `classes` by `classes` numbers of clips.
    """
    rows = [row for row in matrix if len(row) == classes]
    counts = [cell for row in rows for cell in row if isinstance(cell, int | float) and 0 <= cell < math.inf]
    if len(rows) != classes or len(counts) != classes**2:
        raise ValueError(f"for {classes} labels, confusion_matrix={matrix}")
    return tuple(tuple(map(int, row)) for row in rows)
