"""Analyze all files of a dataset from beginning to end: format, length, level, clipping, silence."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import numpy as np
from soundfile import SoundFile
from tqdm import tqdm

from asc.audio import decode, open_sound
from asc.errors import InputError

BLOCK = 2**20  # values decoded at a time
FULL_SCALE = 1 - 2**-15  # the largest 16-bit sample
RUN = 3  # samples in a row at full scale: a single one may be the peak of an undistorted wave


@dataclass(frozen=True)
class Sound:
    """The format of a sound file, and what its samples show.

    Attributes:
        seconds: its length.
        rate: Hz.
        channels: number of them.
        format: of the file and its samples, as "WAV PCM_24".
        peak: largest absolute value of a sample.
        level: root mean square in dB full scale; -inf for digital silence.
        clipped: fraction of the samples at full scale.
        runs: number of times that a channel stays at full scale for three samples or more.
        offset: largest absolute mean of a channel.
        silent_channels: indices of channels without any sound.
        digest: of the decoded samples; equal for equal sounds, in a WAV and in a FLAC file alike.
    """

    seconds: float
    rate: int
    channels: int
    format: str
    peak: float
    level: float
    clipped: float
    runs: int
    offset: float
    silent_channels: tuple[int, ...]
    digest: str


def analyze(path: Path, stop: Event | None = None) -> Sound:
    """Decode a file, and measure its samples.

    Args:
        path: the file.
        stop: ends a thread within a long file.

    Raises:
        InputError: the file is not readable, cut off or damaged, or holds NaN or infinity.
        KeyboardInterrupt: `stop` is set.
    """
    with open_sound(path) as sound:
        channels, frames = sound.channels, sound.frames
        digest = hashlib.blake2b(f"{sound.samplerate} {channels}".encode(), digest_size=16)
        peaks, sums, energy = np.zeros(channels), np.zeros(channels), 0.0
        clipped = runs = 0
        before = np.zeros((channels, RUN), bool)  # whether the last samples of the block before were at full scale
        for decoded in blocks(sound, path, stop):
            digest.update(decoded.data)
            wave = np.ascontiguousarray(decoded.T)  # (channels, samples), which NumPy reduces ten times as fast
            peak = np.maximum(wave.max(1), -wave.min(1))
            peaks = np.maximum(peaks, peak)
            sums += wave.sum(1)
            energy += float(np.vdot(wave, wave))
            if peak.max() >= FULL_SCALE or before.any():
                full = np.concatenate([before, np.abs(wave) >= FULL_SCALE], axis=1)
                clipped += int(full[:, RUN:].sum())
                runs += count_runs(full)
                before = full[:, -RUN:]
        rate, kind = sound.samplerate, f"{sound.format} {sound.subtype}"
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


def blocks(sound: SoundFile, path: Path, stop: Event | None) -> Iterator[np.ndarray]:
    """Blocks (samples, channels) of a file, decoded one at a time so that memory does not grow with its length."""
    size = max(1, BLOCK // sound.channels)
    for start in range(0, sound.frames, size):
        if stop and stop.is_set():
            raise KeyboardInterrupt
        yield decode(sound, min(size, sound.frames - start), path)


def count_runs(full: np.ndarray) -> int:
    """Number of runs of at least RUN true values in full (channels, samples), which begin after the first sample."""
    starts = full.shape[1] - RUN + 1
    inside = np.logical_and.reduce([full[:, start : start + starts] for start in range(RUN)])
    return int((inside[:, 1:] & ~inside[:, :-1]).sum())


def analyze_all(paths: Sequence[Path]) -> tuple[dict[Path, Sound], dict[Path, str]]:
    """The files' contents, and what is wrong with those that cannot be read; decoded by a thread for each core."""
    sounds: dict[Path, Sound] = {}
    faults: dict[Path, str] = {}
    stop = Event()
    # libsndfile, NumPy and hashlib work outside the interpreter's lock
    with ThreadPoolExecutor() as pool:
        jobs = [(path, pool.submit(analyze, path, stop)) for path in paths]
        try:
            for path, job in tqdm(jobs, "listening", unit="file", leave=False, disable=None, delay=1):
                try:
                    sounds[path] = job.result()
                except InputError as error:
                    faults[path] = str(error)
        except BaseException:  # Ctrl-C
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return sounds, faults
