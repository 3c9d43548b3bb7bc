"""The worst mistakes of the systems for one task, and their recordings as MP3 and PNG for the page."""

import base64
import contextlib
import io
import re
from pathlib import PurePath
from typing import NamedTuple

import matplotlib.image
import numpy as np
import pandas as pd
import soundfile
import torch

from asc.audio import fit_length, read_wave
from asc.classifier import SceneClassifier
from asc.errors import InputError
from asc.report.runs import Run
from asc.report.systems import System, Task
from asc.results import read_predictions

RATE = 32_000  # Hz, sound on the page
MAX_SECONDS = 20.0  # maximum length of sound on the page
MIN_PROBABILITY = 5e-7  # predictions.csv has six decimals


class Prediction(NamedTuple):
    """A system's label for a clip, its mean probability over the runs, and the probability of the true label."""

    system: System
    label: str
    probability: float
    of_true_label: float


class Mistake(NamedTuple):
    """A clip that a system misclassifies: its file below the dataset's folder, its true label, and the predictions."""

    filename: str
    scene: str
    predictions: list[Prediction]


def worst_mistakes(task: Task, count: int) -> list[Mistake]:
    """The misclassified clips whose true scene has the lowest probability, averaged over the runs.

    Raises:
        InputError: a predictions.csv is not of a run for this task.
    """
    tables, keys = [], []
    for index, system in enumerate(task.systems):
        for run in system.runs:
            with contextlib.suppress(FileNotFoundError):
                table = read_predictions(run.directory / "predictions.csv", task.labels)
                tables.append(table.set_index(["filename", "scene_label"]))
                keys.append(index)
    if not tables:
        return []
    runs = pd.concat(tables, keys=keys)  # rows (system, filename, scene) of probabilities of each label
    true = runs.columns.get_indexer(runs.index.get_level_values(2))
    losses = pd.Series(-np.log(runs.to_numpy()[range(len(runs)), true].clip(MIN_PROBABILITY)), runs.index)
    means = runs.groupby(level=[0, 1, 2], sort=False).mean()
    is_wrong = means.idxmax(axis=1) != means.index.get_level_values(2)
    wrong = is_wrong.groupby(level=[1, 2]).any()
    order = losses.groupby(level=[1, 2]).mean()[wrong].sort_values(ascending=False, kind="stable")
    mistakes = []
    for filename, scene in order.index[:count]:
        predictions = []
        for index, system in enumerate(task.systems):
            if (index, filename, scene) in means.index:
                row: dict = means.xs((index, filename, scene)).to_dict()
                label = max(row, key=row.__getitem__)
                predictions.append(Prediction(system, label, row[label], row[scene]))
        mistakes.append(Mistake(filename, scene, predictions))
    return mistakes


class Recording(NamedTuple):
    """A clip on a page.

    Attributes:
        sound: data URI of an MP3; empty if there is none.
        spectrogram: data URI of a PNG, low frequencies at the bottom; empty if there is none.
        seconds: length of the spectrogram.
        fault: reason for a missing recording; empty if there is one.
    """

    sound: str = ""
    spectrogram: str = ""
    seconds: float = 0.0
    fault: str = ""


def embed(filename: str, run: Run, model: SceneClassifier, with_sound: bool) -> Recording:
    """The clip as input to the run's network: one channel, cut to the length of a training clip."""
    if run.root is None or PurePath(filename).is_absolute() or ".." in PurePath(filename).parts:
        return Recording(fault="The recording has no place below the dataset's folder.")
    path, start = run.root / filename, 0.0
    if within := re.fullmatch(r"(.+)#t=(\d+(?:\.\d+)?)", filename, re.DOTALL):  # see asc.data.lists.Clip.name
        path, start = run.root / within[1], float(within[2])
    if not path.is_file():
        return Recording(fault="The recording is no longer in the dataset's folder.")
    seconds = min(model.clip_samples / model.sample_rate, MAX_SECONDS)
    try:
        wave = read_wave(path, model.sample_rate, model.channel, model.clip_samples, round(start * model.sample_rate))
        with torch.inference_mode():
            whole = torch.from_numpy(fit_length(wave, model.clip_samples))
            features = model.frontend(whole[None])[0, 0]
        sound = ""
        if with_sound:
            sound = mp3(read_wave(path, RATE, model.channel, round(seconds * RATE), round(start * RATE)))
    except InputError:
        return Recording(fault="The recording cannot be read.")
    return Recording(sound, spectrogram(features), model.clip_samples / model.sample_rate)


def mp3(wave: np.ndarray) -> str:
    """Data URI of a waveform (samples,) at RATE, normalized to full scale: many scenes are too quiet to hear."""
    file = io.BytesIO()
    soundfile.write(file, 0.9 * wave / max(np.abs(wave).max(), 1e-9), RATE, format="MP3")
    return data_uri(file, "audio/mpeg")


def spectrogram(features: np.ndarray) -> str:
    """Data URI of features (n_bins, frames) in colors, from their 1st to their 99.9th percentile."""
    low, high = np.percentile(features, [1, 99.9])
    file = io.BytesIO()
    matplotlib.image.imsave(file, features, vmin=low, vmax=high, cmap="magma", origin="lower", format="png")
    return data_uri(file, "image/png")


def data_uri(file: io.BytesIO, kind: str) -> str:
    """The content of a file as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def recording(mistake: Mistake, with_sound: bool) -> Recording:
    """The clip of a mistake, from the most accurate system that was tested on it and can be loaded."""
    found = Recording(fault="No checkpoint names the place of the recording.")
    for system in sorted((row.system for row in mistake.predictions), key=lambda system: -system.accuracy):
        if system.first.checkpoint:
            with contextlib.suppress(InputError):  # untrusted class
                model = SceneClassifier.load_from_checkpoint(system.first.checkpoint)
                found = embed(mistake.filename, system.first, model, with_sound)
            if not found.fault:
                return found
    return found
