"""A clip in a page: its sound as MP3 and its spectrogram as PNG, as data URIs."""

import base64
import io
import re
from pathlib import PurePath
from typing import NamedTuple

import matplotlib.image
import numpy as np
import soundfile
import torch

from asc.audio import fit_length, read_wave
from asc.classifier import SceneClassifier
from asc.errors import InputError
from asc.report.runs import Run

RATE = 32_000  # Hz, of the sound in the page
MAX_SECONDS = 20.0  # of sound in the page


class Recording(NamedTuple):
    """A clip in a page.

    Attributes:
        sound: data URI of an MP3; empty if there is none.
        spectrogram: data URI of a PNG, low frequencies at the bottom; empty if there is none.
        seconds: in the spectrogram.
        fault: why there is none; empty if there is.
    """

    sound: str = ""
    spectrogram: str = ""
    seconds: float = 0.0
    fault: str = ""


def embed(filename: str, run: Run, model: SceneClassifier, with_sound: bool) -> Recording:
    """The clip as the input of the run's network: one channel, the length of a training clip."""
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
    """Data URI of a waveform (samples,) at RATE, raised to full scale: many scenes are too quiet to hear."""
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
    """The content of a file as an address."""
    return f"data:{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
