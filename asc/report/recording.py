"""A clip in a page: its sound as MP3 and its spectrogram as PNG, as data URIs."""

import base64
import io
import re
from dataclasses import dataclass
from pathlib import PurePath

import matplotlib
import numpy as np
import soundfile
import torch
from PIL import Image

from asc.audio import fit_length, read_wave
from asc.classifier import SceneClassifier
from asc.errors import InputError
from asc.report.runs import Run

RATE = 32_000  # Hz, of the sound in the page
LONGEST = 20.0  # seconds in the page
COLORMAP = "magma"


@dataclass(frozen=True)
class Recording:
    """What a page shows of a clip.

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
    """The clip as the run's network hears it: one channel, the length of a training clip."""
    if run.root is None or PurePath(filename).is_absolute() or ".." in PurePath(filename).parts:
        return Recording(fault="The recording has no place below the dataset's folder.")
    path, start = run.root / filename, 0.0
    if within := re.fullmatch(r"(.+)#t=(\d{1,6}(?:\.\d{1,9})?)", filename, re.DOTALL):  # see asc.data.lists.Clip.name
        path, start = run.root / within[1], float(within[2])
    if not path.is_file():
        return Recording(fault="The recording is no longer in the dataset's folder.")
    seconds = min(model.clip_samples / model.sample_rate, LONGEST)
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
    return data_uri(file.getvalue(), "audio/mpeg")


def spectrogram(features: np.ndarray) -> str:
    """Data URI of features (n_bins, frames) in colors, from their 1st to their 99.9th percentile."""
    low, high = np.percentile(features, [1, 99.9])
    levels = ((features - low) / max(high - low, 1e-9) * 255).clip(0, 255).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(levels[::-1]), mode="P")
    palette = (255 * matplotlib.colormaps[COLORMAP](np.arange(256))[:, :3]).round().astype(np.uint8)
    image.putpalette(palette.tobytes())
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return data_uri(file.getvalue(), "image/png")


def data_uri(content: bytes, kind: str) -> str:
    """The content as an address that holds it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
