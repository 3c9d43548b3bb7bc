"""Results of a run: results.json, predictions.csv and the table printed at its end."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError, model_validator

from asc.classifier import SceneClassifier
from asc.complexity import DCASE2020_LIMIT_KB
from asc.data import SceneData
from asc.data.lists import Clip
from asc.errors import InputError, one_line, printable
from asc.files import atomic_write, regular
from asc.machine import peak_gpu_memory, peak_memory
from asc.metrics import Metrics, NonNegative
from asc.plot import plot_confusion_matrix
from asc.table import text_table

if TYPE_CHECKING:
    import pandas as pd  # slow to import: only where predictions are written or read

METRICS = (
    *("accuracy", "macro_accuracy", "log_loss"),
    *("parameters", "nonzero_parameters", "size_kb", "dcase2020_size_kb", "macs", "file_bytes", "epochs"),
)
PRECISIONS = {"float": "float", "pruned": "float", "qat": "fake-quantized", "int8": "int8"}  # by stage


class Costs(BaseModel):
    """`Complexity` of the network, and the size of the file to deploy in bytes."""

    parameters: PositiveInt
    nonzero_parameters: NonNegativeInt
    size_kb: NonNegative
    dcase2020_size_kb: NonNegative
    macs: NonNegativeInt
    file_bytes: NonNegativeInt


class Training(BaseModel):
    """Duration of the training in epochs and seconds, its speed in clips per second, and Lightning's `precision`."""

    epochs: NonNegativeInt
    seconds: NonNegative
    clips_per_second: NonNegative
    precision: str = "32-true"


class Results(BaseModel):
    """The content of results.json.

    Attributes:
        stage: stage of the tested network.
        checkpoint: checkpoint of the tested network.
        labels: names of the scenes.
        test: metrics on the test clips.
        complexity: size and operations of the network.
        training: duration and speed of the training.
    """

    model_config = ConfigDict(frozen=True)

    stage: Literal["float", "pruned", "qat", "int8"]
    checkpoint: Path
    labels: Annotated[list[str], Field(min_length=2)]
    test: Metrics
    complexity: Costs
    training: Training

    @model_validator(mode="after")
    def check_labels(self) -> "Results":
        """Check that labels are unique and match the confusion matrix."""
        classes, matrix = len(set(self.labels)), self.test.confusion_matrix
        if {len(self.labels), len(matrix), *map(len, matrix)} != {classes}:
            raise ValueError("labels and confusion_matrix do not match")
        return self

    @property
    def metrics(self) -> dict[str, float]:
        """The values of METRICS."""
        values = vars(self.test) | vars(self.complexity) | vars(self.training)
        return {name: float(values[name]) for name in METRICS}


def read_results(directory: Path) -> Results:
    """Read the results.json in a run's directory.

    Raises:
        InputError: it is missing or invalid.
    """
    file = directory / "results.json"
    try:
        return Results.model_validate_json(regular(file).read_bytes(), strict=True)
    except (OSError, ValueError) as error:
        raise unreadable(file, error) from error


def unreadable(file: Path, error: Exception) -> InputError:
    """The error for an invalid results or predictions file."""
    why = one_line(error)
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        why = ": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"]]))
    return InputError(printable(f"{file} cannot be read: {why}; repeat or exclude the run"))


def write_results(
    directory: Path, checkpoint: Path, file: Path, model: SceneClassifier, data: SceneData, training: dict[str, Any]
) -> Results:
    """Write predictions.csv, confusion_matrix.png and results.json of the tested model; return results.json's content.

    Args:
        directory: the run's directory.
        checkpoint: checkpoint of the model.
        file: the file to deploy, whose size is reported.
        model: the tested model.
        data: the data with the test clips.
        training: see `Training`.

    Raises:
        WriteError: a file cannot be written.
    """
    results = Results(
        stage=model.stage,
        checkpoint=checkpoint,
        labels=model.labels,
        test=model.test_metrics,
        complexity=Costs(**vars(model.complexity()), file_bytes=file.stat().st_size),
        training=Training.model_validate(training),
    )
    clips = data.clips["test"][: len(model.test_probabilities)]  # trainer.limit_test_batches
    write_predictions(directory / "predictions.csv", data.root, clips, model.labels, model.test_probabilities)
    matrix = np.array(results.test.confusion_matrix)
    plot_confusion_matrix(matrix, model.labels, directory / "confusion_matrix.png")
    with atomic_write(directory / "results.json") as temporary:  # last: it marks the run as finished
        temporary.write_text(json.dumps(results.model_dump(mode="json"), indent=2, allow_nan=False) + "\n")
    return results


def results_table(results: Results) -> str:
    """The results as a table of at most 80 columns."""
    test, cost, training = results.test, results.complexity, results.training
    official = cost.dcase2020_size_kb
    rows = [(label, "-" if value is None else f"{value:.3f}") for label, value in test.class_accuracy.items()]
    averages = {"macro accuracy": test.macro_accuracy, "accuracy": test.accuracy, "log loss": test.log_loss}
    rows += [("", ""), *((name, f"{value:.3f}") for name, value in averages.items())]
    verdict = "within" if official <= DCASE2020_LIMIT_KB else "over"
    lines = [
        "",
        text_table(rows, ["test accuracy", ""]),
        "",
        f"size   {cost.nonzero_parameters:,} non-zero parameters, {cost.size_kb:.1f} KB",
        f"       {official:.1f} KB by DCASE 2020's count, {verdict} its limit of {DCASE2020_LIMIT_KB:.0f}",
        f"       {cost.file_bytes:,} bytes in the file to deploy, graph included",
        f"time   {training.seconds:.0f} s for {training.epochs} epochs, {training.clips_per_second:.0f} clips/s",
    ]
    if memory := peak_memory():
        on_gpu = peak_gpu_memory()
        lines.append(f"memory {memory / 1e9:.1f} GB peak" + (f", {on_gpu / 1e9:.1f} GB on the GPU" if on_gpu else ""))
    return "\n".join(lines)


def write_predictions(path: Path, root: Path, clips: Sequence[Clip], labels: Sequence[str], probabilities: Any) -> None:
    """Write a row for each clip: filename (below `root`), scene_label, and the probability of each label.

    The name of a clip cut from a recording ends with "#t=SECONDS". `probabilities` are (clips, n_classes).

    Raises:
        WriteError: the file cannot be written.
    """
    import pandas as pd

    names = pd.DataFrame([(clip.name(root), clip.label) for clip in clips], dtype=object)
    table = pd.concat([names, pd.DataFrame(probabilities)], axis=1)
    table.columns = ["filename", "scene_label", *labels]
    with atomic_write(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6f", errors="surrogateescape")


def read_predictions(path: Path, labels: Sequence[str]) -> "pd.DataFrame":
    """Read a file of `write_predictions`: columns filename, scene_label and the probability of each label.

    Raises:
        FileNotFoundError: the file is missing.
        InputError: `write_predictions` did not write the file, or not for these labels.
    """
    import pandas as pd

    kinds = {"filename": object, "scene_label": object, **dict.fromkeys(labels, float)}
    try:
        table = pd.read_csv(regular(path), dtype=kinds, keep_default_na=False, encoding_errors="surrogateescape")
        if list(table) != list(kinds) or not table.scene_label.isin(labels).all():
            raise ValueError(f"expected the columns {', '.join(kinds)} and scene labels among these")
        if not ((table[list(labels)] >= 0) & (table[list(labels)] <= 1)).all(axis=None):
            raise ValueError("expected probabilities in [0, 1]")
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    return table
