"""The page of asc.report: all runs in one HTML file without scripts or network access."""

import base64
import contextlib
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import matplotlib.image
import numpy as np
import pandas as pd
import soundfile
import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from tqdm import tqdm

from asc.audio import fit_length, read_wave
from asc.classifier import SceneClassifier
from asc.errors import InputError, printable
from asc.files import atomic_write
from asc.report.plot import DARK, LIGHT, SIZE, accuracy_plot, inline_svg, size, training_curves
from asc.report.runs import Run, System, Task, differing
from asc.report.table import speedups
from asc.results import read_predictions

RATE = 32_000  # Hz, sound on the page
MAX_SECONDS = 20.0  # maximum length of sound on the page
MIN_PROBABILITY = 5e-7  # predictions.csv has six decimals


def write_page(
    path: Path, tasks: Sequence[Task], latency: dict[System, float] | None, mistakes: int, with_sound: bool
) -> None:
    """Write the page, with latencies in ms if they were measured and a number of worst mistakes for each task.

    Raises:
        InputError: a file of a run cannot be read, or the page cannot be written.
    """
    options: dict = {"autoescape": True, "undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), **options)
    environment.filters["printable"] = printable
    directories = [run.directory for task in tasks for system in task.systems for run in system.runs]
    common = Path(os.path.commonpath([directory.parent for directory in directories]))
    sections = []
    for index, task in enumerate(tasks, start=1):
        systems, times = task.systems, latency or {}
        worst = tqdm(worst_mistakes(task, mistakes), "mistakes", leave=False, disable=None, delay=1)
        sections.append(
            {
                "task": task,
                "rows": list(zip(systems, map(times.get, systems), speedups(systems, times), strict=True)),
                "plots": plots(f"task{index}", task, times),
                "confusions": [(system, confusion_cells(system)) for system in systems],
                "mistakes": [(mistake, recording(mistake, task, with_sound)) for mistake in worst],
                "settings": differing(systems),
            }
        )
    page = environment.get_template("page.html").render(
        sections=sections,
        directories={directory: printable(str(directory.relative_to(common))) for directory in directories},
        timed=latency is not None,
        with_sound=with_sound,
        light=LIGHT,
        dark=DARK,
    )
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def plots(name: str, task: Task, latency: dict[System, float]) -> list[Markup]:
    """Accuracy against size and against latency, and the training curves; `name` is the prefix of their ids."""
    found = []
    sizes = {system: size(system) for system in task.systems}
    for about, cost, label, unit in (
        ("size", sizes, SIZE, "KB"),
        ("latency", latency, "time for a clip on one thread, ms", "ms"),
    ):
        if systems := [system for system in task.systems if system in cost]:
            title = f"Accuracy against {about}"
            figure = accuracy_plot([Task(title, systems)], cost.__getitem__, label)
            points = "; ".join(f"{s.name}: {s.accuracy:.1f} % at {cost[s]:.4g} {unit}" for s in systems)
            found.append(inline_svg(figure, f"{name}-{about}", f"{title}. {points}."))
    if curves := training_curves(task):
        found.append(inline_svg(curves, f"{name}-training", "Training curves over the epochs."))
    return found


def confusion_cells(system: System) -> list[list[tuple[int, float]]]:
    """Confusion matrix summed over the system's runs: clips, and their fraction of the true class."""
    matrix = np.sum([run.results.test.confusion_matrix for run in system.runs], axis=0)
    return [[(clips, clips / max(sum(row), 1)) for clips in row] for row in matrix.tolist()]


class Mistake(NamedTuple):
    """A misclassified clip: its file below the dataset's folder, its true label, and a row for each system."""

    filename: str
    scene: str
    predictions: list[Any]


def worst_mistakes(task: Task, count: int) -> list[Mistake]:
    """The misclassified clips whose true scene has the lowest probability, averaged over the runs.

    The predictions have the fields system (name), label, probability (mean over the runs) and of_true_label.

    Raises:
        InputError: a predictions.csv is not of a run for this task.
    """
    tables = {}
    for system in task.systems:
        for run in system.runs:
            with contextlib.suppress(FileNotFoundError):
                table = read_predictions(run.directory / "predictions.csv", task.labels)
                tables[system.name, run.directory] = table.set_index(["filename", "scene_label"])
    if not tables:
        return []
    runs = pd.concat(tables, names=["system", "run"])  # probabilities of each label
    loss = -np.log(of_true_label(runs).clip(MIN_PROBABILITY)).groupby(["filename", "scene_label"]).mean()
    means = runs.groupby(["system", "filename", "scene_label"], sort=False).mean()
    table = pd.DataFrame(
        {"label": means.idxmax(axis=1), "probability": means.max(axis=1), "of_true_label": of_true_label(means)}
    ).reset_index()
    clips = table.groupby(["filename", "scene_label"])[["system", "label", "probability", "of_true_label"]]
    wrong = (table.label != table.scene_label).groupby([table.filename, table.scene_label]).any()
    worst = loss[wrong].sort_values(ascending=False, kind="stable").index[:count]
    rows = {clip: list(clips.get_group(clip).itertuples(index=False)) for clip in worst}
    return [Mistake(filename, scene, predictions) for (filename, scene), predictions in rows.items()]


def of_true_label(probabilities: pd.DataFrame) -> pd.Series:
    """The probability of each row's scene_label, from a column for each label."""
    columns = probabilities.columns.get_indexer(probabilities.index.get_level_values("scene_label"))
    return pd.Series(probabilities.to_numpy()[np.arange(len(columns)), columns], probabilities.index)


class Recording(NamedTuple):
    """A clip on a page: data URIs of an MP3 and a PNG, the seconds it lasts, and the reason if it is missing."""

    sound: str = ""
    spectrogram: str = ""
    seconds: float = 0.0
    fault: str = ""


def recording(mistake: Mistake, task: Task, with_sound: bool) -> Recording:
    """The clip of a mistake, from the most accurate system that was tested on it and can be loaded."""
    found = Recording(fault="No checkpoint names the place of the recording.")
    for system in sorted(task.systems, key=lambda system: -system.accuracy):
        if system.first.checkpoint and system.name in {row.system for row in mistake.predictions}:
            with contextlib.suppress(InputError):  # untrusted class
                model = SceneClassifier.load_from_checkpoint(system.first.checkpoint)
                found = embed(mistake.filename, system.first, model, with_sound)
            if not found.fault:
                return found
    return found


def embed(filename: str, run: Run, model: SceneClassifier, with_sound: bool) -> Recording:
    """The clip as input to the run's network: one channel, cut to the length of a training clip."""
    if run.root is None or PurePath(filename).is_absolute() or ".." in PurePath(filename).parts:
        return Recording(fault="The recording has no place below the dataset's folder.")
    path, start = run.root / filename, 0.0
    if within := re.fullmatch(r"(.+)#t=(\d+(?:\.\d+)?)", filename, re.DOTALL):  # see asc.data.lists.Clip.name
        path, start = run.root / within[1], float(within[2])
    if not path.is_file():
        return Recording(fault="The recording is no longer in the dataset's folder.")
    seconds = model.clip_samples / model.sample_rate
    try:
        wave = read_wave(path, model.sample_rate, model.channel, model.clip_samples, round(start * model.sample_rate))
        with torch.inference_mode():
            features = model.frontend(torch.from_numpy(fit_length(wave, model.clip_samples))[None])[0, 0]
        sound = ""
        if with_sound:
            samples = round(min(seconds, MAX_SECONDS) * RATE)
            sound = mp3(read_wave(path, RATE, model.channel, samples, round(start * RATE)))
    except InputError:
        return Recording(fault="The recording cannot be read.")
    return Recording(sound, spectrogram(features), seconds)


def mp3(wave: np.ndarray) -> str:
    """Data URI of a waveform (samples,) at RATE, normalized to full scale: many scenes are too quiet to hear."""
    file = io.BytesIO()
    soundfile.write(file, 0.9 * wave / max(np.abs(wave).max(), 1e-9), RATE, format="MP3")
    return f"data:audio/mpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def spectrogram(features: np.ndarray) -> str:
    """Data URI of features (n_bins, frames) in colors, from their 1st to their 99.9th percentile."""
    low, high = np.percentile(features, [1, 99.9])
    file = io.BytesIO()
    matplotlib.image.imsave(file, features, vmin=low, vmax=high, cmap="magma", origin="lower", format="png")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
