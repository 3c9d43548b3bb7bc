"""Formats of the predictions: a table for people, JSON or CSV for programs."""

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
    """A format of the predictions.

    Args:
        labels: names of the scenes, in the order of the probabilities.

    Attributes:
        encoding: settings of the stream to print to.
        head: printed first, if not empty.
    """

    encoding: dict[str, Any] = {}
    head = ""

    def __init__(self, labels: Sequence[str]):
        self.labels = labels

    @abstractmethod
    def recording(self, name: str, windows: Sequence[Window]) -> str:
        """Format a recording."""

    @abstractmethod
    def live(self, window: Window) -> str:
        """Format the newest window from the microphone."""

    def best(self, probabilities: np.ndarray) -> tuple[str, float]:
        """The most probable label and its probability."""
        index = int(probabilities.argmax())
        return self.labels[index], float(probabilities[index])


class Table(Output):
    """Rows for people: the scene and, below a recording in which it changes, each part of it.

    Each row is printed as soon as it is known, so its columns have fixed widths; file names, of any length, come last.
    """

    def __init__(self, labels: Sequence[str]):
        super().__init__(labels)
        self.width = max(len("scene"), *(len(printable(label)) + 2 for label in labels))
        self.head = self.row("scene", "probability", "seconds", "file") + "\n" + "-" * (self.width + 40)

    def recording(self, name: str, windows: Sequence[Window]) -> str:
        label, probability = self.best(mean_probabilities(windows))
        rows = [self.row(label, f"{probability:.2f}", f"{windows[-1].end:.1f}", name)]
        parts = segments(windows, self.labels)
        if len(parts) > 1:
            rows += [
                self.row(f"  {part.label}", f"{part.probability:.2f}", "", f"{clock(part.start)} - {clock(part.end)}")
                for part in parts
            ]
        return "\n".join(rows)

    def live(self, window: Window) -> str:
        label, probability = self.best(window.probabilities)
        return self.row(label, f"{probability:.2f}", f"{window.end:.1f}", "microphone")

    def row(self, *cells: str) -> str:
        scene, probability, seconds, file = map(printable, cells)
        return f"{scene:<{self.width}}  {probability:>11}  {seconds:>9}  {file}"


class JsonLines(Output):
    """A line of JSON for each recording: file, seconds, label, probabilities; with several windows, timeline."""

    def recording(self, name: str, windows: Sequence[Window]) -> str:
        line = {"file": name, "seconds": windows[-1].end, **self.prediction(mean_probabilities(windows))}
        if len(windows) > 1:
            line["timeline"] = [self.window(window) for window in windows]
        return json.dumps(line)

    def live(self, window: Window) -> str:
        return json.dumps(self.window(window))

    def window(self, window: Window) -> dict[str, Any]:
        return {"start": window.start, "end": window.end, **self.prediction(window.probabilities)}

    def prediction(self, probabilities: np.ndarray) -> dict[str, Any]:
        values = dict(zip(self.labels, probabilities.tolist(), strict=True))
        return {"label": self.best(probabilities)[0], "probabilities": values}


class Csv(Output):
    """A row for each window: file, start, end, label, and a column with the probability of each label."""

    encoding = {"encoding": "utf-8", "errors": "surrogateescape"}  # file names keep their bytes

    def __init__(self, labels: Sequence[str]):
        super().__init__(labels)
        self.head = self.rows([["file", "start", "end", "label", *labels]])

    def recording(self, name: str, windows: Sequence[Window]) -> str:
        return self.rows(self.cells(name, window) for window in windows)

    def live(self, window: Window) -> str:
        return self.rows([self.cells("microphone", window)])

    def cells(self, name: str, window: Window) -> list[str]:
        label, _ = self.best(window.probabilities)
        return [name, f"{window.start:.3f}", f"{window.end:.3f}", label, *(f"{p:.6f}" for p in window.probabilities)]

    def rows(self, cells: Iterable[list[str]]) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(cells)
        return text.getvalue().removesuffix("\n")


def mean_probabilities(windows: Sequence[Window]) -> np.ndarray:
    """Mean over the windows, as in `SceneClassifier.classify`."""
    return np.mean([window.probabilities for window in windows], axis=0)
