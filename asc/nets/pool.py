"""Pooling over all the frames there are."""

import torch.nn.functional as F
from torch import Tensor, nn


class PoolOverTime(nn.Module):
    """The largest value of `height` bins and all frames: (batch, channels, bins, frames) -> (..., bins // height, 1).

    `max_pool2d` rather than `amax` or adaptive pooling, which have no 8-bit kernel.

    Args:
        height: bins; None takes all of them, which leaves one value a channel.
    """

    def __init__(self, height: int | None = None):
        super().__init__()
        self.height = height

    def kernel_size(self, x: Tensor) -> tuple[int, int]:
        """Bins and frames that become one value of x (batch, channels, bins, frames)."""
        return self.height or x.shape[-2], x.shape[-1]

    def forward(self, x: Tensor) -> Tensor:
        """Pool."""
        return F.max_pool2d(x, self.kernel_size(x))
