"""Augmentation against arithmetic by hand, and against mixed waveforms."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from asc import InputError
from asc.augment import (
    FilterAugment,
    FreqMixStyle,
    Mixup,
    RandomCrop,
    between_class,
    filter_augment,
    freq_mixstyle,
    mask,
    mixup,
    nats_per_db,
    roll,
)
from asc.frontend import Spectrogram

pytestmark = pytest.mark.usefixtures("device")

MODEL = SimpleNamespace(labels=["indoor", "outdoor", "transportation"], frontend=SimpleNamespace(power=1))


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(4, 1, 3, 5)


@pytest.fixture
def target() -> torch.Tensor:
    return torch.tensor([0, 1, 2, 1])


@pytest.fixture
def one_hot(target) -> torch.Tensor:
    return F.one_hot(target, 3).float()


PERM = torch.tensor([2, 0, 3, 1])


def test_mixup_with_lam_one_is_the_identity(x, one_hot):
    mixed, soft = mixup(x, one_hot, torch.ones(4), PERM)
    assert torch.equal(mixed, x)
    assert torch.equal(soft, one_hot)


def test_mixup_with_lam_zero_gives_the_examples_at_perm(x, one_hot):
    mixed, soft = mixup(x, one_hot, torch.zeros(4), PERM)
    assert torch.equal(mixed, x[PERM])
    assert torch.equal(soft, one_hot[PERM])


def test_mixup_with_lam_a_quarter_by_hand():
    x = torch.tensor([8.0, 16.0]).view(2, 1, 1, 1)
    mixed, soft = mixup(x, torch.eye(2), torch.tensor([0.25, 1.0]), torch.tensor([1, 0]))
    assert mixed.flatten().tolist() == [14.0, 16.0]  # 0.25 * 8 + 0.75 * 16; and 16 untouched
    assert soft.tolist() == [[0.25, 0.75], [0.0, 1.0]]


def test_mixup_edits_the_batch_in_place(x, target, one_hot):
    batch = [x.clone(), target]
    Mixup(alpha=1.0).on_train_batch_start(None, MODEL, batch, 0)
    mixed, soft = batch
    assert mixed.shape == x.shape
    assert not torch.equal(mixed, x)
    assert not torch.equal(soft, one_hot)
    torch.testing.assert_close(soft.sum(1), torch.ones(4))


def test_keep_originals_doubles_the_batch_originals_first(x, target, one_hot):
    batch = [x, target]
    Mixup(alpha=1.0, keep_originals=True).on_train_batch_start(None, MODEL, batch, 0)
    mixed, soft = batch
    assert mixed.shape == (8, 1, 3, 5)
    assert torch.equal(mixed[:4], x)
    assert torch.equal(soft[:4], one_hot)
    assert not torch.equal(mixed[4:], x)


def draw(alpha: float, n: int = 1000) -> torch.Tensor:
    """lam of each example when a batch of n examples, each of its own class, is mixed."""
    batch = [torch.arange(float(n)).view(n, 1, 1, 1), torch.arange(n)]
    Mixup(alpha).on_train_batch_start(None, SimpleNamespace(labels=list(range(n))), batch, 0)
    x, soft = batch
    # example i holds the number i, so a mixed example is the mean of its classes' numbers
    torch.testing.assert_close(x.flatten(), soft @ torch.arange(float(n)), atol=1e-2, rtol=0)
    assert ((soft > 0).sum(1) <= 2).all()
    return soft.diagonal()


@pytest.mark.parametrize("alpha", [0.1, 0.4, 1.0, 5.0])
def test_lam_follows_the_beta_distribution(alpha):
    lam = draw(alpha)
    # Beta(a, a) has mean 1/2 and variance 1 / (8 a + 4); five standard errors of 1000 draws, and 0.005 for an example
    # mixed with itself
    variance = 1 / (8 * alpha + 4)
    assert lam.mean().item() == pytest.approx(0.5, abs=5 * (variance / 1000) ** 0.5 + 0.005)
    assert lam.var().item() == pytest.approx(variance, rel=0.25)


def test_roll_equals_torch_roll_of_each_example(x):
    shift = torch.tensor([0, 1, 4, -2])
    expected = torch.stack([torch.roll(one, by, -1) for one, by in zip(x, shift.tolist(), strict=True)])
    assert torch.equal(roll(x, shift), expected)


def test_random_crop_shifts_all_bands_of_an_example_together():
    # all bands of an example hold the numbers of its frames
    x = torch.arange(50.0).expand(16, 1, 3, 50).clone()
    target = torch.arange(16)
    batch = [x.clone(), target]
    RandomCrop().on_train_batch_start(None, MODEL, batch, 0)
    rolled = batch[0]
    assert torch.equal(rolled.sort(-1).values, x)
    assert torch.equal(rolled, rolled[:, :, :1].expand_as(rolled))
    assert torch.equal((rolled.diff(dim=-1) % 50), torch.ones(16, 1, 3, 49))
    assert len(rolled[:, 0, 0, 0].unique()) > 5  # not all by the same
    assert batch[1] is target


def test_spec_augment_fills_masks_with_the_mean_of_the_example(x):
    masked = mask(x, bins=3, frames=2)
    mean = x.mean((1, 2, 3), keepdim=True).expand_as(x)
    changed = (masked - x).abs() > 1e-5  # the mean goes off and on again, which rounds
    torch.testing.assert_close(masked[changed], mean[changed])


def test_spec_augment_masks_one_band_and_one_span():
    """Without the masked rows nothing differs but whole columns, both contiguous and no wider than asked."""
    x = torch.randn(200, 1, 12, 20)
    changed = (mask(x, bins=5, frames=4) - x).abs() > 1e-5
    band, span = changed.all(-1).squeeze(1), changed.all(-2).squeeze(1)  # (batch, bins), (batch, frames)
    assert (changed == (band[:, None, :, None] | span[:, None, None, :])).all()
    for marked, widest in ((band, 5), (span, 4)):
        widths = marked.sum(1)
        assert widths.max() <= widest
        assert len(widths.unique()) > 2, "the width does not vary"
        starts = (marked.int().diff(prepend=torch.zeros(len(x), 1, dtype=torch.int)) == 1).sum(1)
        assert starts.max() == 1, "a band or span has a hole"


@pytest.mark.parametrize(("frames", "kept"), [(428, 214), (216, 108), (44, 32), (20, 20)])
def test_random_crop_keeps_the_fraction_but_at_least_some_frames(frames, kept):
    batch = [torch.arange(4 * frames).view(4, 1, 1, frames).float(), None]
    RandomCrop(fraction=0.5, min_frames=32).on_train_batch_start(None, None, batch, 0)
    assert batch[0].shape[-1] == kept
    steps = batch[0].diff().squeeze()
    assert ((steps == 1) | (steps == 1 - frames)).all(), "frames of an excerpt follow each other, around the end"


# Between-class learning


def test_between_class_of_equal_levels_by_hand():
    """Half and half of two equally loud sounds: sqrt((a^2 + b^2) / 4) over sqrt(1/2), in magnitudes."""
    x = torch.tensor([[1.0, 3.0], [3.0, 1.0]]).log().view(2, 1, 1, 2)
    mixed, soft = between_class(x, torch.eye(2), torch.full((2,), 0.5), torch.tensor([1, 0]))
    torch.testing.assert_close(mixed.exp().flatten(1), torch.full((2, 2), 5**0.5))
    assert soft.tolist() == [[0.5, 0.5], [0.5, 0.5]]


def test_between_class_equals_mixed_waveforms_on_average():
    """Red and white noise of the same level in the features, mixed as waveforms by the paper's formula."""
    frontend = Spectrogram(8000, n_fft=512, win_length=512, hop_length=128, n_bins=16, f_min=200, frames=None, power=2)

    def spectrum(wave: torch.Tensor) -> torch.Tensor:
        return frontend(wave).exp().mean((0, 3), keepdim=True).log() / 2  # log magnitudes (1, 1, n_bins, 1)

    noises = [torch.randn(128, 8000).cumsum(-1), torch.randn(128, 8000)]
    red, white = (noise / (2 * spectrum(noise)).exp().mean().sqrt() for noise in noises)
    lam = 0.3
    mixture = (lam * red + (1 - lam) * white) / (lam**2 + (1 - lam) ** 2) ** 0.5
    x = torch.cat([spectrum(red), spectrum(white)])
    mixed, _ = between_class(x, torch.eye(2), torch.tensor([lam, 0.5]), torch.tensor([1, 0]))
    torch.testing.assert_close(mixed[:1], spectrum(mixture), atol=0.05, rtol=0)  # 8,000 frames: 1 or 2 %
    assert (x[0] - x[1]).abs().max() > 0.5


def test_between_class_preserves_the_level(x, one_hot):
    mixed, _ = between_class(x, one_hot, torch.tensor([0.1, 0.5, 0.9, 0.3]), PERM)
    level = [(2 * part).logsumexp((1, 2, 3)) for part in (x, mixed)]
    torch.testing.assert_close(level[1], level[0])


def test_between_class_with_lam_one_is_the_identity(x, one_hot):
    mixed, soft = between_class(x, one_hot, torch.ones(4), PERM)
    torch.testing.assert_close(mixed, x, atol=1e-4, rtol=0)
    assert torch.equal(soft, one_hot)


# Freq-MixStyle


def test_freq_mixstyle_with_lam_one_is_the_identity(x):
    torch.testing.assert_close(freq_mixstyle(x, torch.ones(4), PERM), x)


def test_freq_mixstyle_with_lam_zero_takes_the_statistics_at_perm(x):
    mixed = freq_mixstyle(x, torch.zeros(4), PERM)
    for statistic in (torch.mean, torch.std):
        torch.testing.assert_close(statistic(mixed, 3), statistic(x[PERM], 3))
    normal = [(one - one.mean(3, keepdim=True)) / one.std(3, keepdim=True) for one in (x, mixed)]
    torch.testing.assert_close(*normal)  # what happens in time is its own


@pytest.mark.parametrize(("p", "mixed"), [(0, 0), (1, 50)])
def test_freq_mixstyle_mixes_the_fraction_of_batches(p, mixed, x):
    changed = 0
    for _ in range(50):
        batch = [x.clone(), None]
        FreqMixStyle(p).on_train_batch_start(None, MODEL, batch, 0)
        changed += not torch.equal(batch[0], x)
    assert changed == mixed


# Gains

DB = math.log(10) / 20  # nats of magnitude


def test_filter_augment_is_linear_between_knots():
    x = torch.zeros(1, 1, 9, 2)
    gained = filter_augment(x, torch.tensor([[0.0, 4.0, 2.0]]))
    assert gained[0, 0, :, 0].tolist() == [0, 1, 2, 3, 4, 3.5, 3, 2.5, 2]
    assert torch.equal(gained[..., 0], gained[..., 1])


def test_filter_augment_draws_gains_for_each_clip_within_their_range():
    batch = [torch.zeros(500, 1, 32, 4), None]
    FilterAugment(db=6, knots=5).on_train_batch_start(None, MODEL, batch, 0)
    gains = batch[0][..., 0].squeeze(1) / DB
    assert 0.9 * 6 < gains.abs().max() <= 6 + 1e-4
    assert len(gains[:, 0].unique()) > 400


def test_a_gain_of_features_equals_a_gain_of_the_waveform():
    """On energies (power 2) a decibel is twice as many nats as on magnitudes."""
    wave = 0.1 * torch.randn(1, 8000)
    for power in (1, 2):
        frontend = Spectrogram(8000, n_fft=512, win_length=512, hop_length=128, n_bins=32, f_min=50, power=power)
        nats = (frontend(10 ** (6 / 20) * wave) - frontend(wave)).mean().item()
        assert 6 * nats_per_db(SimpleNamespace(frontend=frontend)) == pytest.approx(nats, abs=1e-3)


def test_settings_out_of_range_are_rejected():
    for make, name in (
        (lambda: RandomCrop(fraction=0), "random_crop.fraction"),
        (lambda: RandomCrop(min_frames=0), "random_crop.min_frames"),
        (lambda: FilterAugment(db=-1), "filter_augment.db"),
        (lambda: FilterAugment(knots=1), "filter_augment.knots"),
        (lambda: FreqMixStyle(p=1.5), "freq_mixstyle.p"),
    ):
        with pytest.raises(InputError, match=f"invalid augmentation.{name}"):
            make()
