"""Variants of recordings: more sounds for a teacher to label. It hears each variant as the student does."""

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import soxr
from scipy import fft

from asc.audio import fit_length
from asc.data.lists import Clip, Variant

MIXED = 0.7  # fraction of the variants that another clip is mixed into
MAX_SPEED = 1.18  # or its inverse
MIN_LEVEL = -20.0  # dB of the other clip, at most 0
MAX_GAIN = 6.0  # dB, up or down, at KNOTS
KNOTS = np.linspace(0, 1, 6) ** 2.5 * 22_050  # Hz, between which the gain in dB is interpolated


def variants(clips: Sequence[Clip], count: int, seed: int) -> list[Clip]:
    """`count` variants of each clip, most of them mixed with another of the clips."""
    rng = random.Random(seed)
    return [
        replace(clip, variant=Variant(rng.getrandbits(32), rng.choice(clips) if rng.random() < MIXED else None))
        for clip in clips
        for _ in range(count)
    ]


def alter(wave: np.ndarray, rate: int, variant: Variant, other: np.ndarray | None) -> np.ndarray:
    """The variant of wave (samples,) at `rate` Hz, with a peak of 0.9; the same sound at any rate.

    It begins at another moment and has another speed and frequency response; `other` (samples,) is mixed into it.
    """
    rng = np.random.default_rng(variant.seed)
    samples = len(wave)
    wave = np.roll(wave, int(rng.uniform() * samples))
    wave = fit_length(soxr.resample(wave, rate, rate * MAX_SPEED ** rng.uniform(-1, 1)), samples)
    gain = np.interp(fft.rfftfreq(samples, 1 / rate), KNOTS, rng.uniform(-MAX_GAIN, MAX_GAIN, len(KNOTS)))
    wave = unit(fft.irfft(fft.rfft(wave) * np.float32(10 ** (gain / 20)), samples))
    if other is not None:
        wave += 10 ** (rng.uniform(MIN_LEVEL, 0) / 20) * unit(np.roll(other, int(rng.uniform() * samples)))
    return (0.9 / np.abs(wave).max().clip(1e-9) * wave).astype(np.float32)


def unit(wave: np.ndarray) -> np.ndarray:
    """The waveform with a root mean square of 1; silence stays silent."""
    return wave / np.sqrt(np.square(wave).mean()).clip(1e-9)
