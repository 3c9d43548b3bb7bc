"""Variants of recordings: the same sound at any rate, what it is made of, and how a teacher labels it."""

from pathlib import Path

import numpy as np
import pytest
import soxr

from asc.data.lists import Clip, Variant
from asc.data.variants import MIN_LEVEL, alter, variants
from asc.teachers.targets import teach

RATE = 44_100
TIME = np.arange(2 * RATE) / RATE
PLAIN, MIXED = Variant(7, None), Variant(7, Clip(Path("other"), "", ""))


def peak(wave: np.ndarray) -> float:
    """Frequency of the largest bin in Hz."""
    return float(np.argmax(np.abs(np.fft.rfft(wave)))) * RATE / len(wave)


def test_a_variant_is_the_same_sound_at_any_rate():
    """The student hears it at 44.1 kHz, the teacher at 32."""
    tone = np.float32(0.3 * np.sin(2 * np.pi * 500 * TIME) + 0.2 * np.sin(2 * np.pi * 3000 * TIME))
    noise = soxr.resample(np.random.default_rng(0).standard_normal(len(TIME)), RATE, 16_000)
    noise = soxr.resample(noise, 16_000, RATE)[: len(TIME)]
    for variant, other in ((PLAIN, None), (MIXED, noise)):
        fast = alter(tone, RATE, variant, other)
        slow = alter(
            soxr.resample(tone, RATE, 32_000),
            32_000,
            variant,
            other if other is None else soxr.resample(other, RATE, 32_000),
        )
        assert len(fast) == len(tone)
        power = [np.abs(np.fft.rfft(wave))[:16_000] ** 2 for wave in (soxr.resample(fast, RATE, 32_000), slow)]
        bands = [spectrum[: 16_000 // 100 * 100].reshape(-1, 100).sum(1) for spectrum in power]
        assert np.corrcoef(*bands)[0, 1] > 0.99


def test_a_variant_has_another_speed_and_a_peak_of_nine_tenths():
    tone = np.float32(0.01 * np.sin(2 * np.pi * 1000 * TIME))
    found = [peak(wave) for wave in (alter(tone, RATE, Variant(seed, None), None) for seed in range(20))]
    assert 1000 / 1.19 < min(found) < 950
    assert 1050 < max(found) < 1000 * 1.19
    assert np.abs(alter(tone, RATE, PLAIN, None)).max() == pytest.approx(0.9)
    assert not alter(np.zeros(RATE, np.float32), RATE, PLAIN, None).any()


def test_the_other_sound_is_never_louder():
    noise = np.random.default_rng(0).standard_normal(len(TIME)).astype(np.float32)
    tone = np.float32(np.sin(2 * np.pi * 1000 * TIME))
    shares = []
    for seed in range(20):
        alone, mixed = (
            alter(noise, RATE, Variant(seed, other), wave) for other, wave in ((None, None), (MIXED.other, tone))
        )
        scale = np.vdot(mixed, alone) / np.vdot(alone, alone)
        rest = mixed - scale * alone
        assert peak(rest) == pytest.approx(1000, abs=1)
        shares.append(10 * np.log10(np.square(rest).sum() / np.square(scale * alone).sum()))
    assert MIN_LEVEL - 0.5 < min(shares) < -12
    assert -6 < max(shares) < 0.5


def test_variants_are_repeatable_and_of_all_clips():
    clips = [Clip(Path(f"{number}.wav"), "", "") for number in range(10)]
    made = variants(clips, 3, seed=1)
    assert made == variants(clips, 3, seed=1) != variants(clips, 3, seed=2)
    assert [clip.path for clip in made] == [clip.path for clip in clips for _ in range(3)]
    assert len({clip.variant.seed for clip in made}) == 30
    assert {clip.variant.other is None for clip in made} == {True, False}


def test_a_variant_of_a_labelled_clip_is_predicted_out_of_fold():
    """Two places with a label of their own that contradicts all others: only who has seen them repeats it."""
    rng = np.random.default_rng(0)
    labelled = np.concatenate([rng.normal(-2, 0.1, (20, 2)), rng.normal(2, 0.1, (20, 2))])
    labelled[0], labelled[20] = (2, 90), (-2, -90)
    classes, places = np.repeat([0, 1], 20), [str(number) for number in range(40)]
    copies = teach(labelled, classes, places, labelled, 2, places)
    seen = teach(labelled, classes, places, labelled, 2)
    np.testing.assert_allclose(copies.unlabelled, copies.labelled)
    assert seen.unlabelled[0, 0] > copies.unlabelled[0, 0]
