"""Weights averaged over the last epochs."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor

from asc.settings import UnitInterval, checked


class AverageLastEpochs(WeightAveraging):
    """Stochastic weight averaging over the last epochs (Izmailov et al., 2018).

    Batch norms' running statistics are averaged too. Earlier checkpoints hold the weights themselves.

    Args:
        fraction: fraction of the epochs to average over, the last ones.
    """

    @checked("callbacks.average")
    def __init__(self, fraction: UnitInterval = 0.2):
        super().__init__(avg_fn=self.average)
        self.fraction, self.first = fraction, 0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        epochs = trainer.max_epochs or 1
        self.first = min(round((1 - self.fraction) * epochs), epochs - 1)

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return epoch_idx is not None

    def average(self, mean: Tensor, newest: Tensor, epochs: Any) -> Tensor:
        """The running mean after `epochs` epochs; before `first` it equals the newest weights."""
        averaged = int(epochs) - self.first  # epochs in the mean
        return newest if averaged <= 0 else mean + (newest - mean) / (averaged + 1)
