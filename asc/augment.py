"""Augmentation of a batch of features on its device: pure functions, and callbacks that apply them in training.

A batch is the list [features (batch, 1, n_bins, frames), target], target (batch,) class indices or (batch, n_classes)
soft labels. Each callback edits the list in place, since Lightning ignores what a callback returns.
"""

import math
from typing import Annotated

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from asc.classifier import SceneClassifier, soft_labels
from asc.errors import check_number
from asc.settings import UnitInterval, checked
from asc.torch_pair import torchaudio

Alpha = Annotated[float, Field(gt=1e-6, le=1e6)]  # of Beta(alpha, alpha)
Decibels = Annotated[float, Field(ge=0, le=100)]


def mixup(x: Tensor, target: Tensor, lam: Tensor, perm: Tensor) -> tuple[Tensor, Tensor]:
    """Blend each example with the one at `perm`, keeping the fraction `lam` of the original (Zhang et al., 2018).

    x (batch, 1, n_bins, frames), target (batch, n_classes), lam (batch,) in [0, 1], perm (batch,) indices.
    """
    return torch.lerp(x[perm], x, lam.view(-1, 1, 1, 1)), torch.lerp(target[perm], target, lam.view(-1, 1))


def roll(x: Tensor, shift: Tensor, crop: int | None = None) -> Tensor:
    """Shift each example of x (batch, 1, n_bins, frames) by shift (batch,) frames, circularly.

    `crop`: number of frames to return; with a random shift they are a random excerpt.
    """
    frames = x.shape[-1]
    index = (torch.arange(crop or frames, device=x.device) - shift.view(-1, 1)) % frames  # (batch, crop)
    return x.gather(-1, index[:, None, None, :].expand(*x.shape[:3], -1))


def mask(x: Tensor, bins: int, frames: int) -> Tensor:
    """Replace up to `bins` bins and `frames` frames by the example's mean (SpecAugment; Park et al., 2019).

    x (batch, 1, n_bins, frames); each example gets its own masks.
    """
    mean = x.mean((1, 2, 3), keepdim=True)
    mask_axis = torchaudio.functional.mask_along_axis_iid
    x = mask_axis(x - mean, bins, mask_value=0.0, axis=2)
    return mask_axis(x, frames, mask_value=0.0, axis=3) + mean


def between_class(x: Tensor, target: Tensor, lam: Tensor, perm: Tensor) -> tuple[Tensor, Tensor]:
    """Mix each example with the one at `perm` as sounds do, with ratio `lam` (Tokozume et al., 2018).

    This works on log magnitudes a and b, not waveforms. b is scaled to the root mean square of a; weighted by lam and
    1 - lam, the powers add, as those of uncorrelated sounds do on average; the result keeps the root mean square of a:
    log(sqrt(lam^2 exp(2 a) + (1 - lam)^2 exp(2 b)) / sqrt(lam^2 + (1 - lam)^2)).

    x (batch, 1, n_bins, frames) natural logarithms, target (batch, n_classes), lam (batch,) in [0, 1], perm (batch,).
    """
    level = (2 * x).logsumexp((1, 2, 3), keepdim=True) / 2  # log root mean square plus a constant, (batch, 1, 1, 1)
    log_lam, log_rest = (weight.clamp_min(1e-4).log().view(-1, 1, 1, 1) for weight in (lam, 1 - lam))
    other = x[perm] - level[perm] + level
    power = torch.logaddexp(2 * (log_lam + x), 2 * (log_rest + other))
    mixed = (power - torch.logaddexp(2 * log_lam, 2 * log_rest)) / 2
    return mixed, torch.lerp(target[perm], target, lam.view(-1, 1))


def freq_mixstyle(x: Tensor, lam: Tensor, perm: Tensor) -> Tensor:
    """Mix each band's mean and standard deviation with those at `perm` (Freq-MixStyle; Schmid et al., 2022).

    This mixes the frequency responses of microphones and rooms. The temporal envelope and the targets are unchanged.

    x (batch, 1, n_bins, frames), lam (batch,) weight of the example itself, perm (batch,) indices.
    """
    std, mean = torch.std_mean(x, dim=3, keepdim=True)  # (batch, 1, n_bins, 1)
    std = std.clamp_min(1e-6)
    lam = lam.view(-1, 1, 1, 1)
    return (x - mean) / std * torch.lerp(std[perm], std, lam) + torch.lerp(mean[perm], mean, lam)


def filter_augment(x: Tensor, knots: Tensor) -> Tensor:
    """Add a gain to each band, interpolated linearly between knots (FilterAugment; Nam et al., 2022).

    x (batch, 1, n_bins, frames) logarithms, knots (batch, n_knots) evenly spaced from the first to the last band.
    """
    gain = F.interpolate(knots.unsqueeze(1), x.shape[2], mode="linear", align_corners=True)  # (batch, 1, n_bins)
    return x + gain.unsqueeze(-1)


def draw_beta(alpha: float, x: Tensor) -> Tensor:
    """A number from Beta(alpha, alpha) for each example of x (batch, ...), drawn on the device of x."""
    concentration = torch.full((len(x),), alpha, device=x.device)
    # a check of the arguments would wait for the GPU
    return torch.distributions.Beta(concentration, concentration, validate_args=False).sample().to(x)


def nats_per_db(model: SceneClassifier) -> float:
    """One decibel in units of the model's features: natural logarithms of the magnitude's power."""
    return model.frontend.power * math.log(10) / 20


class Mixup(pl.Callback):
    """Mixup on whole spectrograms (report, section 3).

    Args:
        alpha: lam is drawn from Beta(alpha, alpha) for each example. 0.4 is from other papers of the report's authors.
        keep_originals: append the mixed examples, which doubles the batch, as in these papers.
    """

    @checked("augmentation.mixup")
    def __init__(self, alpha: Alpha = 0.4, keep_originals: bool = False):
        self.alpha, self.keep_originals = alpha, keep_originals

    def on_train_batch_start(self, trainer: pl.Trainer, model: SceneClassifier, batch: list, batch_idx: int) -> None:
        x, target = batch[0], soft_labels(batch[1], len(model.labels)).to(batch[0])
        lam = draw_beta(self.alpha, x)
        mixed = mixup(x, target, lam, torch.randperm(len(x), device=x.device))
        batch[:] = [torch.cat(pair) for pair in zip((x, target), mixed, strict=True)] if self.keep_originals else mixed


class BetweenClass(pl.Callback):
    """Between-class learning (the report's reference 8). Replaces `Mixup`; needs log features.

    Args:
        alpha: lam is drawn from Beta(alpha, alpha) for each example; 1, uniform, in the paper.
    """

    @checked("augmentation.between_class")
    def __init__(self, alpha: Alpha = 1.0):
        self.alpha = alpha

    def on_train_batch_start(self, trainer: pl.Trainer, model: SceneClassifier, batch: list, batch_idx: int) -> None:
        x, target = batch[0], soft_labels(batch[1], len(model.labels)).to(batch[0])
        lam = draw_beta(self.alpha, x)
        batch[:] = between_class(x, target, lam, torch.randperm(len(x), device=x.device))


class FreqMixStyle(pl.Callback):
    """Freq-MixStyle: mix the frequency responses of the recordings in a batch.

    Args:
        p: fraction of the batches to mix.
        alpha: lam is drawn from Beta(alpha, alpha) for each example.
    """

    @checked("augmentation.freq_mixstyle")
    def __init__(self, p: UnitInterval = 0.4, alpha: Alpha = 0.3):
        self.p, self.alpha = p, alpha

    def on_train_batch_start(self, trainer: pl.Trainer, model: SceneClassifier, batch: list, batch_idx: int) -> None:
        x = batch[0]
        if torch.rand(()) < self.p:
            batch[0] = freq_mixstyle(x, draw_beta(self.alpha, x), torch.randperm(len(x), device=x.device))


class FilterAugment(pl.Callback):
    """Apply a random smooth frequency response to each training clip, simulating other microphones and rooms.

    Args:
        db: gains at the knots are drawn from [-db, db].
        knots: number of knots.
    """

    @checked("augmentation.filter_augment")
    def __init__(self, db: Decibels = 6.0, knots: Annotated[int, Field(ge=2, le=1000)] = 5):
        self.db, self.knots = db, knots

    def on_train_batch_start(self, trainer: pl.Trainer, model: SceneClassifier, batch: list, batch_idx: int) -> None:
        x = batch[0]
        knots = torch.empty(len(x), self.knots, device=x.device, dtype=x.dtype).uniform_(-self.db, self.db)
        batch[0] = filter_augment(x, knots * nats_per_db(model))


class RandomCrop(pl.Callback):
    """Shift each training clip circularly by a random number of frames, and crop it: a scene has no beginning.

    Args:
        fraction: fraction of the frames to train on. Less than 1 gives random excerpts and faster training.
        min_frames: minimum length of an excerpt; 32 frames are 0.7 s at the report's hop. Shorter clips stay whole.
    """

    @checked("augmentation.random_crop")
    def __init__(self, fraction: Annotated[float, Field(gt=0, le=1)] = 1.0, min_frames: PositiveInt = 32):
        self.fraction, self.min_frames = fraction, min_frames

    def on_train_batch_start(self, trainer: pl.Trainer, model: SceneClassifier, batch: list, batch_idx: int) -> None:
        x = batch[0]
        shift = torch.randint(x.shape[-1], (len(x),), device=x.device)
        batch[0] = roll(x, shift, crop=min(x.shape[-1], max(self.min_frames, round(self.fraction * x.shape[-1]))))


class SpecAugment(pl.Callback):
    """Frequency and time masking of each training clip (SpecAugment).

    Args:
        bins: maximum height of the frequency mask, at most the features' bins.
        frames: maximum length of the time mask, at most the features' frames, after a crop.
    """

    @checked("augmentation.spec_augment")
    def __init__(self, bins: NonNegativeInt, frames: NonNegativeInt):
        self.bins, self.frames = bins, frames

    def on_train_batch_start(self, trainer: pl.Trainer, model: SceneClassifier, batch: list, batch_idx: int) -> None:
        x = batch[0]
        check_number("augmentation.spec_augment.bins", self.bins, int, 0, x.shape[2])
        check_number("augmentation.spec_augment.frames", self.frames, int, 0, x.shape[3])
        batch[0] = mask(x, self.bins, self.frames)
