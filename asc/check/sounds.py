"""Decode all files of a dataset from beginning to end: format, length, level, clipping, silence."""

import hashlib
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from asc.audio import decode, open_sound
from asc.errors import InputError
from asc.inference import closing_pool

BLOCK_VALUES = 2**20  # decoded at a time, so that memory does not grow with a file's length
FULL_SCALE = 1 - 2**-15  # the largest 16-bit sample
MIN_RUN = 3  # samples in a row at full scale: a single one may be the peak of an undistorted wave


class Sound(NamedTuple):
    """The format of a sound file, and statistics of its samples."""

    seconds: float
    rate: int  # Hz
    channels: int
    format: str  # of the file and its samples, as "WAV PCM_24"
    peak: float  # largest absolute value of a sample
    level: float  # root mean square in dB full scale; -inf for digital silence
    clipped: float  # fraction of the samples at full scale
    runs: int  # number of times that a channel stays at full scale for MIN_RUN samples or more
    offset: float  # largest absolute mean of a channel
    silent_channels: tuple[int, ...]  # indices of channels without any sound
    digest: str  # of the decoded samples; equal for equal sounds, in a WAV and in a FLAC file alike


def analyze(path: Path) -> Sound:
    """Decode a file and compute the statistics of its samples.

    Raises:
        InputError: the file is not readable, cut off or damaged, or has NaN or infinity.
    """
    with open_sound(path) as sound:
        rate, channels, frames = sound.samplerate, sound.channels, sound.frames
        digest = hashlib.blake2b(f"{rate} {channels}".encode(), digest_size=16)
        peaks, sums, energy = np.zeros(channels), np.zeros(channels), 0.0
        clipped = runs = 0
        before = np.zeros((channels, MIN_RUN), bool)  # whether the last samples before the block were at full scale
        size = max(1, BLOCK_VALUES // channels)
        for start in range(0, frames, size):
            decoded = decode(sound, min(size, frames - start), path)
            digest.update(decoded.data)
            wave = np.ascontiguousarray(decoded.T)  # (channels, samples), which NumPy reduces ten times as fast
            peak = np.maximum(wave.max(1), -wave.min(1))
            peaks = np.maximum(peaks, peak)
            sums += wave.sum(1)
            energy += float(np.vdot(wave, wave))
            if peak.max() >= FULL_SCALE or before.any():
                full = np.concatenate([before, np.abs(wave) >= FULL_SCALE], axis=1)
                clipped += int(full[:, MIN_RUN:].sum())
                inside = np.all(np.lib.stride_tricks.sliding_window_view(full, MIN_RUN, axis=1), axis=2)
                runs += int((inside[:, 1:] & ~inside[:, :-1]).sum())
                before = full[:, -MIN_RUN:]
        kind = f"{sound.format} {sound.subtype}"
    power = energy / (frames * channels)
    return Sound(
        seconds=frames / rate,
        rate=rate,
        channels=channels,
        format=kind,
        peak=float(peaks.max()),
        level=10 * math.log10(power) if power > 0 else -math.inf,
        clipped=clipped / (frames * channels),
        runs=runs,
        offset=float(np.abs(sums / frames).max()),
        silent_channels=tuple(np.flatnonzero(peaks == 0).tolist()),
        digest=digest.hexdigest(),
    )


def analyze_all(paths: Sequence[Path]) -> tuple[pd.DataFrame, list[str]]:
    """A row of `Sound` for each readable file, indexed by its path, and the errors of the others."""
    sounds: dict[Path, Sound] = {}
    errors = []
    with closing_pool(os.cpu_count() or 1) as pool:  # decoders, NumPy and hashlib release the interpreter's lock
        jobs = [(path, pool.submit(analyze, path)) for path in paths]
        for path, job in tqdm(jobs, "analyzing", unit="file", leave=False, disable=None, delay=1):
            try:
                sounds[path] = job.result()
            except InputError as error:
                errors.append(str(error))
    index = pd.Index(sounds, dtype=object)
    return pd.DataFrame(list(sounds.values()), index, columns=list(Sound._fields)), errors
