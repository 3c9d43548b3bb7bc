"""Layers that the networks share: pooling over all frames, and dropout with cheaper random numbers on a CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asc.errors import InputError


class OverTime(nn.Module):
    """Pooling of all frames: (batch, channels, bins, frames) -> (batch, channels, bins // height, 1).

    Args:
        height: number of bins that are pooled together; None: all of them.
    """

    def __init__(self, height: int | None = None):
        super().__init__()
        self.height = height

    def kernel_size(self, x: Tensor) -> tuple[int, int]:
        """Bins and frames of a pooling window on x (batch, channels, bins, frames)."""
        return self.height or x.shape[-2], x.shape[-1]


class MaxPoolOverTime(OverTime):
    """Maximum, computed by `max_pool2d`, since `amax` and adaptive pooling have no 8-bit kernel."""

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, self.kernel_size(x))


class AvgPoolOverTime(OverTime):
    """Average over all frames."""

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, self.kernel_size(x))


class MeanStdPoolOverTime(OverTime):
    """Mean and standard deviation over bins and frames: (batch, channels, bins, frames) -> (batch, channels, 2, 1).

    Both values of a channel are adjacent, also in the weights of a dense layer, as filter pruning expects.
    """

    eps = 1e-5  # added to the variance: the root has no derivative at 0, where ReLU leaves many channels

    def __init__(self) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        mean = F.avg_pool2d(x, self.kernel_size(x))
        variance = F.avg_pool2d((x - mean).square(), self.kernel_size(x))
        return torch.cat([mean, (variance + self.eps).sqrt()], 2)


class Dropout(nn.Dropout):
    """`nn.Dropout` with 16 random bits for each value: a full random number for each takes a tenth of a training step.

    p is rounded to a multiple of 2^-16; the other values are scaled by 1 / (1 - p), of the rounded p.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x, of any shape and dense memory format; in training with zeros in random positions."""
        kept = round((1 - self.p) * 2**16)
        if not self.training or kept in (0, 2**16) or x.device.type != "cpu":
            return super().forward(x)
        draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)  # all 64 bits
        # 16 bits as an integer from -2^15 on are less than kept - 2^15 with probability kept / 2^16
        mask = (draws.view(torch.int16)[: x.numel()] < kept - 2**15) * (2**16 / kept)
        return x * mask.to(x.dtype).as_strided(x.size(), x.stride())


def scaled_dropout(dropout: float, scale: float) -> float:
    """The fraction to drop, `dropout` * `scale`.

    Raises:
        InputError: it is 1 or more.
    """
    if dropout * scale >= 1:
        expected = f"less than {1 / dropout:g}, since it multiplies a dropout of {dropout}"
        raise InputError(f"invalid net.dropout_scale={scale}: expected {expected}")
    return dropout * scale
