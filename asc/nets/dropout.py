"""Dropout whose random numbers cost less on a CPU."""

import torch
from torch import Tensor, nn

from asc.errors import InputError


class Dropout(nn.Dropout):
    """`nn.Dropout` with 16 random bits for each value: a whole random number for each takes a tenth of a training step.

    p is rounded to a multiple of 2^-16; the other values are scaled by 1 / (1 - p), of the rounded p.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x, of any shape and dense memory format, with zeros in random places in training."""
        kept = round((1 - self.p) * 2**16)
        if not self.training or kept in (0, 2**16) or x.device.type != "cpu":
            return super().forward(x)
        draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)  # all 64 bits
        # 16 bits as an integer from -2^15 on are less than kept - 2^15 with probability kept / 2^16
        mask = (draws.view(torch.int16)[: x.numel()] < kept - 2**15) * (2**16 / kept)
        return x * mask.to(x.dtype).as_strided(x.size(), x.stride())


def scaled(dropout: float, dropout_scale: float) -> float:
    """The fraction to drop, `dropout` * `dropout_scale`.

    Raises:
        InputError: nothing would be left.
    """
    if dropout * dropout_scale >= 1:
        raise InputError(
            f"invalid net.dropout_scale={dropout_scale}: expected less than {1 / dropout:g}, "
            f"since it multiplies a dropout of {dropout}"
        )
    return dropout * dropout_scale
