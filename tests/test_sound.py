"""Recordings of any rate and length, read in pieces."""

from fractions import Fraction

import numpy as np
import pytest
import soundfile
import torch
from torchaudio.transforms import Resample

from asc import InputError
from asc.data.audio import read_wave
from asc.sound import rate_ratio, resample, windows

RATES = [(48000, 44100), (24000, 44100), (44100, 16000), (8000, 44100), (192000, 44100), (44100, 44100)]


def noise(samples: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.5, 0.5, samples).astype(np.float32)


@pytest.mark.parametrize(("orig_rate", "new_rate"), RATES)
def test_resampling_in_pieces_equals_torchaudio(orig_rate, new_rate):
    wave, ratio = noise(30011), rate_ratio(orig_rate, new_rate)
    cuts = np.split(wave, [1, 40, 7000, 7001, 20000])
    ours = np.concatenate(list(resample(iter(cuts), ratio.denominator, ratio.numerator)))
    theirs = Resample(orig_rate, new_rate)(torch.from_numpy(wave)).numpy()
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, atol=3e-5)


def test_an_odd_rate_is_taken_as_a_near_one():
    assert rate_ratio(48000, 44100) == Fraction(147, 160)
    for rate in (44101, 44111, 99991, 655357):
        assert abs(float(rate_ratio(rate, 44100)) * rate / 44100 - 1) < 5e-4
        assert rate_ratio(rate, 44100).denominator <= 2000


@pytest.mark.parametrize(("rate", "hop"), [(8000, None), (8000, 0.35), (8000, 2.5), (11025, 0.5), (48000, None)])
def test_windows_are_those_of_the_whole_file(rate, hop, tmp_path):
    file = tmp_path / "long.wav"
    soundfile.write(file, noise(int(23.4 * rate)), rate, subtype="FLOAT")
    whole, n = read_wave(file, 8000).numpy(), 8000
    step = round(hop * 8000) if hop else n
    found = list(windows(file, 8000, 0, n, hop))
    assert [start for start, _ in found] == [*range(0, len(whole) - n, step), len(whole) - n]
    for start, wave in found:
        np.testing.assert_allclose(wave, whole[start : start + n], atol=3e-5)


def test_a_short_file_is_repeated(tmp_path):
    file = tmp_path / "short.wav"
    soundfile.write(file, noise(3000), 8000, subtype="FLOAT")
    ((start, wave),) = windows(file, 8000, 0, 8000)
    assert start == 0
    np.testing.assert_array_equal(wave, np.tile(noise(3000), 3)[:8000])
    with pytest.raises(InputError, match=r"short.wav is shorter than one window: give 0.500 s"):
        next(windows(file, 8000, 0, 8000, shortest=4000))


@pytest.mark.parametrize("rate", [1, 999, 2_000_000_000])
def test_an_impossible_rate_is_refused(rate, tmp_path):
    file = tmp_path / "odd.wav"
    soundfile.write(file, noise(100), rate)
    with pytest.raises(InputError, match=f"odd.wav has a sample rate of {rate} Hz"):
        next(windows(file, 8000, 0, 100))
