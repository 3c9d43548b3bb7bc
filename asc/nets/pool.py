"""Pooling over all the frames there are: (batch, channels, bins, frames) -> (batch, channels, bins // height, 1)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class OverTime(nn.Module):
    """Pooling of `height` bins and all frames to one value.

    Args:
        height: bins; None takes all of them, which leaves one value a channel.
    """

    def __init__(self, height: int | None = None):
        super().__init__()
        self.height = height

    def kernel_size(self, x: Tensor) -> tuple[int, int]:
        """Bins and frames that become one value of x (batch, channels, bins, frames)."""
        return self.height or x.shape[-2], x.shape[-1]


class MaxPoolOverTime(OverTime):
    """The largest value; by `max_pool2d` rather than `amax` or adaptive pooling, which have no 8-bit kernel."""

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, self.kernel_size(x))


class AvgPoolOverTime(OverTime):
    """The average."""

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, self.kernel_size(x))


class MeanStdPoolOverTime(OverTime):
    """Mean and standard deviation over all bins and frames: (batch, channels, bins, frames) -> (batch, channels, 2, 1).

    The two of a channel are neighbours, also in the weights of a dense layer, as pruning of filters expects.
    """

    eps = 1e-5  # added to the variance: the root has no derivative at 0, where ReLU leaves many channels

    def __init__(self) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        mean = F.avg_pool2d(x, self.kernel_size(x))
        variance = F.avg_pool2d((x - mean).square(), self.kernel_size(x))
        return torch.cat([mean, (variance + self.eps).sqrt()], 2)


PoolOverTime = MaxPoolOverTime  # its name in version 0.1.0
