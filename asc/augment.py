"""Augmentation of a batch of features on its device: pure functions, and the callbacks that call them in training.

A batch is the list [features (batch, 1, n_bins, frames), target], target (batch,) class indices or (batch, n_classes)
soft labels. Each callback edits the list in place: Lightning keeps no other reference to what a callback returns.
"""

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor
from torchaudio.functional import mask_along_axis_iid

from asc.classifier import SceneClassifier
from asc.errors import check_number


def mixup(x: Tensor, target: Tensor, lam: Tensor, perm: Tensor) -> tuple[Tensor, Tensor]:
    """Blend each example with the one at `perm`, keeping the fraction `lam` of the original (Zhang et al., 2018).

    x (batch, 1, n_bins, frames), target (batch, n_classes), lam (batch,) in [0, 1], perm (batch,) indices.
    """
    return torch.lerp(x[perm], x, lam.view(-1, 1, 1, 1)), torch.lerp(target[perm], target, lam.view(-1, 1))


def roll(x: Tensor, shift: Tensor, crop: int | None = None) -> Tensor:
    """Shift each example of x (batch, 1, n_bins, frames) by shift (batch,) frames; what leaves the end comes first.

    `crop` keeps the first so many frames of the result, a random excerpt where the shift is random.
    """
    frames = x.shape[-1]
    index = (torch.arange(crop or frames, device=x.device) - shift.view(-1, 1)) % frames  # (batch, crop)
    return x.gather(-1, index[:, None, None, :].expand(*x.shape[:3], -1))


def mask(x: Tensor, bins: int, frames: int) -> Tensor:
    """Fill a random band of up to `bins` and span of up to `frames` with the example's mean (Park et al., 2019).

    x (batch, 1, n_bins, frames); each example gets its own band and span.
    """
    mean = x.mean((1, 2, 3), keepdim=True)
    x = mask_along_axis_iid(x - mean, bins, mask_value=0.0, axis=2)
    return mask_along_axis_iid(x, frames, mask_value=0.0, axis=3) + mean


class Mixup(pl.Callback):
    """Mixup on whole spectrograms (report, section 3).

    Args:
        alpha: lam is drawn from Beta(alpha, alpha) for each example. Not in the report; 0.4 is in its authors' papers.
        keep_originals: add the mixed examples to the batch, which doubles it, as the authors' papers do.
    """

    def __init__(self, alpha: float = 0.4, keep_originals: bool = False):
        check_number("callbacks.mixup.alpha", alpha, float, 1e-6)  # to go without mixup, leave the callback out
        self.beta = torch.distributions.Beta(alpha, alpha)
        self.keep_originals = keep_originals

    def on_train_batch_start(self, trainer: pl.Trainer, model: SceneClassifier, batch: list, batch_idx: int) -> None:
        """Mix the batch; its targets become soft labels."""
        x, target = batch
        if target.ndim == 1:
            target = F.one_hot(target, len(model.labels)).to(x.dtype)
        lam = self.beta.sample((len(x),)).to(x)
        mixed = mixup(x, target, lam, torch.randperm(len(x), device=x.device))
        batch[:] = [torch.cat(pair) for pair in zip((x, target), mixed, strict=True)] if self.keep_originals else mixed


class Roll(pl.Callback):
    """Start each training clip at a random instant: a scene has no beginning.

    Args:
        keep: fraction of the frames to train on, though not fewer than 32 (0.7 s at the report's hop): another excerpt
            each time, and faster.
    """

    MIN_FRAMES = 32

    def __init__(self, keep: float = 1.0):
        check_number("callbacks.roll.keep", keep, float, 1e-6, 1)
        self.keep = keep

    def on_train_batch_start(self, trainer: pl.Trainer, model: SceneClassifier, batch: list, batch_idx: int) -> None:
        """Roll each example by a random number of frames."""
        x = batch[0]
        shift = torch.randint(x.shape[-1], (len(x),), device=x.device)
        batch[0] = roll(x, shift, crop=min(x.shape[-1], max(self.MIN_FRAMES, round(self.keep * x.shape[-1]))))


class Mask(pl.Callback):
    """Hide a band of frequencies and a span of time in each training clip.

    Args:
        bins: the widest band.
        frames: the longest span.
    """

    def __init__(self, bins: int, frames: int):
        self.bins, self.frames = bins, frames

    def on_train_batch_start(self, trainer: pl.Trainer, model: SceneClassifier, batch: list, batch_idx: int) -> None:
        """Mask the batch."""
        batch[0] = mask(batch[0], self.bins, self.frames)
