"""The clips of a dataset: from audio file to waveform, one channel at one sample rate."""

from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from asc.errors import InputError
from asc.sound import duration, open_sound, rate_ratio, read_mono, seek
from asc.torch_pair import torchaudio


@cache
def resampler(ratio: Fraction) -> torchaudio.transforms.Resample:
    """Windowed-sinc resampling by torchaudio, cached since computing its kernel is slow."""
    return torchaudio.transforms.Resample(ratio.denominator, ratio.numerator)


def durations(paths: Sequence[Path]) -> list[float]:
    """Durations in seconds of all files, read from their headers.

    Raises:
        InputError: names the first invalid file and counts the others.
    """
    seconds, faults = [], []
    for path in tqdm(paths, "headers", unit="file", leave=False, disable=None, delay=1):
        try:
            seconds.append(duration(path))
        except InputError as error:
            faults.append(str(error))
    if faults:
        more = f" (and {len(faults) - 1} files more like it)" if len(faults) > 1 else ""
        raise InputError(f"{faults[0]}{more}")
    return seconds


def read_wave(
    path: Path, sample_rate: int, channel: int | str = 0, samples: int | None = None, start: int = 0
) -> Tensor:
    """Waveform (samples,), float32 in [-1, 1], from a sound file (WAV, FLAC, OGG, MP3...).

    Args:
        path: the audio file.
        sample_rate: Hz to resample to.
        channel: index from 0, or "mean" for the mean of all channels; ignored for mono files.
        samples: number to return, after resampling; only what they need is decoded. None decodes all.
        start: first sample to return, after resampling.

    Raises:
        InputError: the file is missing, damaged, empty or ends before `start`, lacks the channel, or holds NaN or
            infinity.
    """
    with open_sound(path) as sound:
        ratio = rate_ratio(sound.samplerate, sample_rate)
        first, skipped = _source_start(start, ratio)
        end = sound.frames if samples is None else min(sound.frames, _source_samples(start + samples, ratio))
        if first >= end:
            raise InputError(f"{path} ends before {start / sample_rate:g} s: it was longer when the clips were cut")
        if first:
            seek(sound, first, path)
        wave = torch.from_numpy(read_mono(sound, end - first, channel, path))
    resampled = resampler(ratio)(wave) if ratio != 1 else wave
    return resampled[skipped : None if samples is None else skipped + samples]


def _source_samples(samples: int, ratio: Fraction) -> int:
    """Number of the file's first samples that determine the first `samples` after resampling by `ratio`."""
    if ratio == 1:
        return samples
    orig, new = ratio.denominator, ratio.numerator
    return -(-samples // new) * orig + resampler(ratio).width  # it turns blocks of `orig` samples into `new`


def _source_start(start: int, ratio: Fraction) -> tuple[int, int]:
    """Where to start reading for the resampled sample `start`: (sample of the file, resampled samples to skip).

    This is the start of one of the resampler's blocks, early enough for the left half of its filter.
    """
    if ratio == 1:
        return start, 0
    orig, new = ratio.denominator, ratio.numerator
    block = max(0, start // new - -(-resampler(ratio).width // orig))
    return block * orig, start - block * new
