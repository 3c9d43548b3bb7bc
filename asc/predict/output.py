"""What is printed of a recording: rows for people, JSON or CSV for programs."""

import csv
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from asc.errors import printable
from asc.inference import Window
from asc.predict.timeline import clock, segments


class Output(ABC):
    """A format of the answers.

    Args:
        labels: names of the scenes, in the order of the probabilities.

    Attributes:
        encoding: settings of the stream that they are printed to.
    """

    encoding: dict[str, Any] = {}

    def __init__(self, labels: Sequence[str]):
        self.labels = labels

    @abstractmethod
    def head(self) -> str:
        """What stands above all answers."""

    @abstractmethod
    def recording(self, name: str, windows: Sequence[Window]) -> str:
        """What is printed of a recording."""

    @abstractmethod
    def live(self, window: Window) -> str:
        """What is printed of the newest window of an endless recording."""


class Table(Output):
    """Rows for people: the scene and, below a long recording in which it changes, each part of it.

    The names of the files stand last, where no length disturbs the columns.
    """

    def __init__(self, labels: Sequence[str]):
        super().__init__(labels)
        self.width = max(len("scene"), *(len(printable(label)) + 2 for label in labels))

    def head(self) -> str:
        return self.row("scene", "probability", "seconds", "file") + "\n" + "-" * (self.width + 40)

    def recording(self, name: str, windows: Sequence[Window]) -> str:
        mean = mean_probabilities(windows)
        best = int(mean.argmax())
        rows = [self.row(self.labels[best], f"{mean[best]:.2f}", f"{windows[-1].end:.1f}", name)]
        parts = segments(windows, self.labels)
        if len(parts) > 1:
            rows += [
                self.row(f"  {part.label}", f"{part.probability:.2f}", "", f"{clock(part.start)} - {clock(part.end)}")
                for part in parts
            ]
        return "\n".join(rows)

    def live(self, window: Window) -> str:
        best = int(window.probabilities.argmax())
        return self.row(self.labels[best], f"{window.probabilities[best]:.2f}", f"{window.end:.1f}", "microphone")

    def row(self, *cells: str) -> str:
        scene, probability, seconds, file = map(printable, cells)
        return f"{scene:<{self.width}}  {probability:>11}  {seconds:>9}  {file}"


class JsonLines(Output):
    """A line of JSON a recording: file, seconds, label, probabilities; timeline where there are several windows."""

    def head(self) -> str:
        return ""

    def recording(self, name: str, windows: Sequence[Window]) -> str:
        facts = {"file": name, "seconds": windows[-1].end, **self.answer(mean_probabilities(windows))}
        if len(windows) > 1:
            facts["timeline"] = [self.window(window) for window in windows]
        return json.dumps(facts)

    def live(self, window: Window) -> str:
        return json.dumps(self.window(window))

    def window(self, window: Window) -> dict:
        return {"start": window.start, "end": window.end, **self.answer(window.probabilities)}

    def answer(self, probabilities: np.ndarray) -> dict:
        values = dict(zip(self.labels, probabilities.tolist(), strict=True))
        return {"label": self.labels[int(probabilities.argmax())], "probabilities": values}


class Csv(Output):
    """A row a window: file, start, end, label, and a column with the probability of each label."""

    encoding = {"encoding": "utf-8", "errors": "surrogateescape"}  # names of files come out as they are

    def head(self) -> str:
        return self.rows([["file", "start", "end", "label", *self.labels]])

    def recording(self, name: str, windows: Sequence[Window]) -> str:
        return self.rows(self.cells(name, window) for window in windows)

    def live(self, window: Window) -> str:
        return self.rows([self.cells("microphone", window)])

    def cells(self, name: str, window: Window) -> list:
        label = self.labels[int(window.probabilities.argmax())]
        return [name, f"{window.start:.3f}", f"{window.end:.3f}", label, *(f"{p:.6f}" for p in window.probabilities)]

    def rows(self, cells: Iterable[list]) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(cells)
        return text.getvalue().removesuffix("\n")


def mean_probabilities(windows: Sequence[Window]) -> np.ndarray:
    """Mean over the windows, as in `SceneClassifier.classify`."""
    return np.mean([window.probabilities for window in windows], axis=0)
