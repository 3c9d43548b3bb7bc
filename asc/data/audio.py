"""The clips of a dataset: from audio file to waveform, one channel at one sample rate."""

from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torchaudio.transforms import Resample
from tqdm import tqdm

from asc.errors import InputError
from asc.sound import open_sound, rate_ratio, read_mono


@cache
def resampler(ratio: Fraction) -> Resample:
    """Windowed-sinc resampling by torchaudio, cached since computing its kernel is slow."""
    return Resample(ratio.denominator, ratio.numerator)


def probe(path: Path) -> float:
    """Duration in seconds, read from the header.

    Raises:
        InputError: the file is missing, not audio, empty, or a WAV shorter than its header says.
    """
    with open_sound(path) as sound:
        return sound.frames / sound.samplerate


def probe_all(paths: Sequence[Path]) -> list[float]:
    """Durations in seconds of all files, read from their headers.

    Raises:
        InputError: names the first invalid file and counts the others.
    """
    seconds, faults = [], []
    for path in tqdm(paths, "headers", unit="file", leave=False, disable=None, delay=1):
        try:
            seconds.append(probe(path))
        except InputError as error:
            faults.append(str(error))
    if faults:
        more = f" (and {len(faults) - 1} files more like it)" if len(faults) > 1 else ""
        raise InputError(f"{faults[0]}{more}")
    return seconds


def read_wave(path: Path, sample_rate: int, channel: int | str = 0, samples: int | None = None) -> Tensor:
    """Waveform (samples,), float32 in [-1, 1], from any file that libsndfile reads (WAV, FLAC, OGG, MP3...).

    Args:
        path: the audio file.
        sample_rate: Hz to resample to.
        channel: index from 0, or "mean" for the mean of all channels; ignored for mono files.
        samples: number to return, after resampling; only what they need is decoded. None decodes all.

    Raises:
        InputError: the file is missing, damaged or empty, lacks the channel, or holds NaN or infinity.
    """
    with open_sound(path) as sound:
        ratio = rate_ratio(sound.samplerate, sample_rate)
        needed = sound.frames if samples is None else min(sound.frames, _source_samples(samples, ratio))
        wave = torch.from_numpy(read_mono(sound, needed, channel, path))
    return (resampler(ratio)(wave) if ratio != 1 else wave)[:samples]


def _source_samples(samples: int, ratio: Fraction) -> int:
    """Number of samples of the file that the first `samples` resampled by `ratio` depend on."""
    if ratio == 1:
        return samples
    orig, new = ratio.denominator, ratio.numerator
    return -(-samples // new) * orig + resampler(ratio).width  # it turns blocks of `orig` samples into `new`
