"""The worst mistakes of the systems for one task, from the predictions.csv of their runs."""

import csv
import math
from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from asc.errors import printable
from asc.files import regular
from asc.report.runs import Run
from asc.report.systems import System, Task
from asc.results import not_of_a_run

SMALLEST = 5e-7  # probability: predictions.csv has six decimals


@dataclass(frozen=True)
class Answer:
    """What a system says of a clip: its label, that label's probability, and that of the true label."""

    system: System
    label: str
    probability: float
    of_true_label: float


@dataclass(frozen=True)
class Mistake:
    """A clip that a system misclassifies.

    Attributes:
        filename: of the recording, below the dataset's folder.
        scene: the true label.
        cross_entropy: mean over the runs that were tested on the clip.
        answers: of the systems that were.
    """

    filename: str
    scene: str
    cross_entropy: float
    answers: list[Answer]


def read_predictions(run: Run) -> dict[tuple[str, str], np.ndarray]:
    """Probabilities (n_classes,) by file name and true label; none without a predictions.csv.

    Raises:
        InputError: it does not hold probabilities of the run's labels.
    """
    file = run.directory / "predictions.csv"
    try:
        with open(regular(file), newline="", encoding="utf-8", errors="surrogateescape") as lines:
            head, *rows = csv.reader(lines)
        names = tuple(map(printable, head))
        predictions = {(row[0], printable(row[1])): np.array(row[2:], dtype=float) for row in rows}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, IndexError, csv.Error) as error:
        raise not_of_a_run(file, "unreadable") from error
    if names != ("filename", "scene_label", *run.labels):
        raise not_of_a_run(file, "its columns are not filename, scene_label and the run's labels")
    for (_, scene), row in predictions.items():
        if scene not in run.labels or len(row) != len(run.labels) or not ((row >= 0) & (row <= 1)).all():
            raise not_of_a_run(file, "a row is not a label and its probabilities")
    return predictions


def worst_mistakes(task: Task, most: int) -> list[Mistake]:
    """The misclassified clips whose true scene got the least probability, on average over the runs."""
    found: dict[tuple[str, str], dict[System, list[np.ndarray]]] = defaultdict(dict)
    for system in task.systems:
        for run in system.runs:
            for clip, row in read_predictions(run).items():
                found[clip].setdefault(system, []).append(row)
    mistakes = []
    for (filename, scene), by_system in found.items():
        true = task.labels.index(scene)
        losses = [-math.log(max(row[true], SMALLEST)) for rows in by_system.values() for row in rows]
        answers = []
        for system, rows in by_system.items():
            mean = np.mean(rows, axis=0)
            best = int(mean.argmax())
            answers.append(Answer(system, task.labels[best], float(mean[best]), float(mean[true])))
        if any(answer.label != scene for answer in answers):
            mistakes.append(Mistake(filename, scene, float(np.mean(losses)), answers))
    return sorted(mistakes, key=lambda mistake: (-mistake.cross_entropy, mistake.filename))[:most]
