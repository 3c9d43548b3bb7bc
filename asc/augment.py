"""Augmentation of a batch of features on its device: pure functions, and the callbacks that call them in training.

A batch is the list [features (batch, 1, n_bins, frames), target], target (batch,) class indices or (batch, n_classes)
shares. Each callback edits the list in place: Lightning keeps no other reference to what a callback returns.
"""

from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor


def mixup(x: Tensor, target: Tensor, lam: Tensor, perm: Tensor) -> tuple[Tensor, Tensor]:
    """Blend each example with the one at `perm`, keeping the share `lam` of the original (Zhang et al., 2018).

    x (batch, 1, n_bins, frames), target (batch, n_classes), lam (batch,) in [0, 1], perm (batch,) indices.
    """
    return torch.lerp(x[perm], x, lam.view(-1, 1, 1, 1)), torch.lerp(target[perm], target, lam.view(-1, 1))


def roll(x: Tensor, shift: Tensor) -> Tensor:
    """Move each example of x (batch, 1, n_bins, frames) by shift (batch,) frames; what leaves the end comes first."""
    frames = x.shape[-1]
    index = (torch.arange(frames, device=x.device) - shift.view(-1, 1)) % frames  # (batch, frames)
    return x.gather(-1, index.view(-1, 1, 1, frames).expand_as(x))


class Mixup(pl.Callback):
    """Mixup on whole spectrograms (report, section 3).

    Args:
        alpha: lam is drawn from Beta(alpha, alpha) for each example. Not in the report; 0.4 is in its authors' papers.
        keep_originals: add the mixed examples to the batch, which doubles it, as the authors' papers do.
    """

    def __init__(self, alpha: float = 0.4, keep_originals: bool = False):
        self.beta = torch.distributions.Beta(alpha, alpha)
        self.keep_originals = keep_originals

    def on_train_batch_start(self, trainer: pl.Trainer, model: Any, batch: list, batch_idx: int) -> None:
        """Mix the batch; its targets become shares."""
        x, target = batch
        if target.ndim == 1:
            target = F.one_hot(target, len(model.labels)).to(x.dtype)
        lam = self.beta.sample((len(x),)).to(x)
        mixed = mixup(x, target, lam, torch.randperm(len(x), device=x.device))
        batch[:] = [torch.cat(pair) for pair in zip((x, target), mixed, strict=True)] if self.keep_originals else mixed


class Roll(pl.Callback):
    """Start each training clip at a random instant: a scene has no beginning."""

    def on_train_batch_start(self, trainer: pl.Trainer, model: Any, batch: list, batch_idx: int) -> None:
        """Roll each example by a random number of frames."""
        x = batch[0]
        batch[0] = roll(x, torch.randint(x.shape[-1], (len(x),), device=x.device))
