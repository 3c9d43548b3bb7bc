"""From audio file to waveform: one channel at one sample rate, or an error that names the file."""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor
from torchaudio.transforms import Resample
from tqdm import tqdm

from asc.errors import InputError


@cache
def resampler(orig_rate: int, new_rate: int) -> Resample:
    """Windowed-sinc resampling by torchaudio, cached since computing its kernel is slow."""
    return Resample(orig_rate, new_rate)


def probe(path: Path) -> float:
    """Duration in seconds, read from the header.

    Raises:
        InputError: the file is missing, not audio, empty, or a WAV shorter than its header says.
    """
    with _open(path) as sound:
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
    with _open(path) as sound:
        rate = sound.samplerate
        needed = sound.frames if samples is None else min(sound.frames, _source_samples(samples, rate, sample_rate))
        try:
            decoded = sound.read(needed, dtype="float32", always_2d=True)  # (samples, channels)
        except soundfile.LibsndfileError as error:
            raise InputError(f"{path} is damaged ({error}): replace or remove it") from error
        if len(decoded) < needed:
            raise InputError(f"{path} is cut off: its header promises more samples; replace or remove it")
    wave = torch.from_numpy(_one_channel(decoded, channel, path))
    if not torch.isfinite(wave).all():
        raise InputError(f"{path} holds samples that are not finite numbers (NaN or infinity): replace or remove it")
    return (resampler(rate, sample_rate)(wave) if rate != sample_rate else wave)[:samples]


def _source_samples(samples: int, rate: int, sample_rate: int) -> int:
    """Number of samples at `rate` that the first `samples` at `sample_rate` depend on."""
    if rate == sample_rate:
        return samples
    resample = resampler(rate, sample_rate)
    orig, new = rate // resample.gcd, sample_rate // resample.gcd
    return -(-samples // new) * orig + resample.width  # it turns blocks of `orig` samples into `new`


def fit_length(wave: Tensor, samples: int) -> Tensor:
    """The first `samples` of wave (n,); a shorter waveform is repeated: zero padding would add a silent scene."""
    return wave.repeat(-(-samples // len(wave)))[:samples]


def _open(path: Path) -> soundfile.SoundFile:
    if not Path(path).is_file():
        raise InputError(f"{path} does not exist or is not a file: check the path")
    try:
        sound = soundfile.SoundFile(path)
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: a headerless file has no sample rate
        why = getattr(error, "error_string", "no header").rstrip(".")
        raise InputError(f"{path} is not a sound file ({why}): replace or remove it") from error
    # libsndfile reads a truncated WAV without an error and reports it only in its log
    cut = re.search(r"(?:data|SSND) : (\d+) \(should be (\d+)\)", sound.extra_info)
    if cut and int(cut[2]) < int(cut[1]) < 0xFFFFFFFF:  # all ones: a stream of unknown length
        raise InputError(f"{path} is cut off: {cut[2]} of {cut[1]} bytes of audio; replace or remove it")
    if sound.frames > 2**48:
        raise InputError(f"{path} has no length in its header, as streams do: rewrite it with a complete header")
    if sound.frames == 0:
        raise InputError(f"{path} is empty (0 samples): replace or remove it")
    return sound


def _one_channel(samples: np.ndarray, channel: int | str, path: Path) -> np.ndarray:
    if samples.shape[1] == 1:
        return samples[:, 0]
    if channel == "mean":
        return samples.mean(axis=1)
    if not isinstance(channel, int) or not 0 <= channel < samples.shape[1]:
        last = samples.shape[1] - 1
        raise InputError(f"{path} has no channel data.channel={channel}: give 0 to {last}, or mean")
    return np.ascontiguousarray(samples[:, channel])
