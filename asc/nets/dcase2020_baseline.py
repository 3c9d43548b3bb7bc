"""The challenge's own network: toni-heittola/dcase2020_task1_baseline, subtask B."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, PositiveInt
from torch import Tensor, nn

from asc.errors import InputError
from asc.nets.layers import MaxPoolOverTime, scaled_dropout
from asc.settings import BelowOne, Epsilon, Filters, Momentum, Scale, checked


class Dcase2020Baseline(nn.Module):
    """Two 7 x 7 convolutions and two dense layers over 40 log-mel bands: 115,219 values besides batch norm.

    Args:
        n_classes: number of scenes.
        n_bins: bands of the frontend, which determine the width of the first dense layer.
        filters: number in each of the two convolutions; fewer after structured pruning.
        dropout: fraction of the values dropped after both poolings and the first dense layer.
        dropout_scale: factor on `dropout`; less than 1 for few clips. Ours.
        bn_momentum: weight of the newest batch in batch norm's running statistics. Ours; Keras' default is 0.01.
        bn_eps: added to batch norm's variance. Keras' default.
    """

    @checked("net")
    def __init__(
        self,
        n_classes: PositiveInt,
        n_bins: Annotated[int, Field(ge=20, le=8192)] = 40,  # at least one after the poolings
        filters: Annotated[Sequence[Filters], Field(min_length=2, max_length=2)] = (32, 64),
        dropout: BelowOne = 0.3,
        dropout_scale: Scale = 1.0,
        bn_momentum: Momentum = 0.1,
        bn_eps: Epsilon = 1e-3,
    ):
        super().__init__()
        n1, n2 = filters
        drop = scaled_dropout(dropout, dropout_scale)
        self.n_bins = n_bins
        self.features = nn.Sequential(
            nn.Conv2d(1, n1, 7, padding=3),
            nn.BatchNorm2d(n1, bn_eps, bn_momentum),
            nn.ReLU(),
            nn.MaxPool2d(5),
            nn.Dropout(drop),
            nn.Conv2d(n1, n2, 7, padding=3),
            nn.BatchNorm2d(n2, bn_eps, bn_momentum),
            nn.ReLU(),
            MaxPoolOverTime(4),  # the official 4 x 100 at the official 500 frames
            nn.Dropout(drop),
        )
        self.classifier = nn.Sequential(
            nn.Linear(n2 * (n_bins // 5 // 4), 100),
            nn.ReLU(),
            nn.Dropout(drop),
            nn.Linear(100, n_classes),
        )
        for layer in self.modules():  # the official initial values (Keras' 'glorot_uniform' and 'uniform')
            if isinstance(layer, nn.Conv2d):
                nn.init.xavier_uniform_(layer.weight)
            elif isinstance(layer, nn.Linear):
                nn.init.uniform_(layer.weight, -0.05, 0.05)
            if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
                nn.init.zeros_(layer.bias)

    @property
    def head(self) -> nn.Module:
        """The layer that computes the logits."""
        return self.classifier[-1]

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, n_classes) of features (batch, 1, n_bins, frames).

        Raises:
            InputError: another number of bins than the network was made for, or fewer than 5 frames.
        """
        bins, frames = x.shape[-2:]
        if bins != self.n_bins or frames < 5:
            raise InputError(
                f"invalid features of {bins} x {frames}: expected {self.n_bins} bins and at least 5 frames for "
                "Dcase2020Baseline; set net.n_bins to frontend.n_bins, or give longer clips"
            )
        return self.classifier(self.features(x).flatten(1))
