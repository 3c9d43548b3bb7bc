"""CP-Mobile, after CPJKU/dcase2024_task1_baseline, the baseline of the DCASE challenge of 2024."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, PositiveInt
from torch import Tensor, nn

from asc.errors import InputError
from asc.nets.layers import AvgPoolOverTime, Dropout
from asc.settings import BelowOne, Epsilon, Momentum, checked

Blocks = Annotated[Sequence[Annotated[int, Field(ge=1, le=32)]], Field(min_length=1, max_length=8)]
Step = Annotated[int, Field(ge=1, le=8)]
Pair = Annotated[Sequence[Step], Field(min_length=2, max_length=2)]
Stride = int | tuple[int, int]  # of bins and frames


class CPMobile(nn.Module):
    """Inverted residual blocks: 61,148 trained parameters with ten classes (Schmid et al., 2023, without their GRN).

    Two convolutions of stride 2, blocks in stages of growing width, a 1 x 1 convolution to one channel per class, and
    the average of each map. 128 x 428 in: 32 x 107, 32 x 54 after block 3 and 16 x 54 after block 4, `n_classes` logits
    out.

    Args:
        n_classes: number of scenes.
        base_channels: channels of the first stage; a quarter of them between the first two convolutions.
        channels_multiplier: factor on the channels from one stage to the next.
        expansion_rate: factor on the channels within a block.
        n_blocks: blocks of each stage.
        strides: stride of each block, over bins and frames.
        dropout: fraction of the values dropped before the last convolution. Ours; the original has none.
        bn_momentum: weight of the newest batch in batch norm's running statistics.
        bn_eps: added to batch norm's variance.
    """

    @checked("net")
    def __init__(
        self,
        n_classes: PositiveInt,
        base_channels: Annotated[int, Field(ge=8, le=1024)] = 32,
        channels_multiplier: Annotated[float, Field(gt=0, le=8)] = 1.8,
        expansion_rate: Annotated[float, Field(gt=0, le=16)] = 2.1,
        n_blocks: Blocks = (3, 2, 1),
        strides: Sequence[Pair] = ((1, 1), (1, 1), (1, 2), (2, 1), (1, 1), (1, 1)),
        dropout: BelowOne = 0.0,
        bn_momentum: Momentum = 0.1,
        bn_eps: Epsilon = 1e-5,
    ):
        super().__init__()
        if len(strides) != sum(n_blocks):
            expected = f"a pair for each of the {sum(n_blocks)} blocks of net.n_blocks"
            raise InputError(f"invalid net.strides={[list(stride) for stride in strides]}: expected {expected}")
        widths = [multiple_of_8(base_channels * channels_multiplier**stage) for stage in range(len(n_blocks))]
        widths = [width for width, blocks in zip(widths, n_blocks, strict=True) for _ in range(blocks)]
        base = multiple_of_8(base_channels)
        self.stem = nn.Sequential(
            *conv_norm(1, base // 4, 3, 2), nn.ReLU(), *conv_norm(base // 4, base, 3, 2), nn.ReLU()
        )
        self.blocks = nn.Sequential(
            *(
                InvertedResidual(n_in, n_out, expansion_rate, (stride[0], stride[1]))
                for n_in, n_out, stride in zip([base, *widths], widths, strides, strict=False)
            )
        )
        self.dropout = Dropout(dropout)
        self.head = nn.Sequential(*conv_norm(widths[-1], n_classes, 1), AvgPoolOverTime(), nn.Flatten())
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out")
            elif isinstance(layer, nn.BatchNorm2d):
                layer.momentum, layer.eps = bn_momentum, bn_eps

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, n_classes) of features (batch, 1, n_bins, frames), of any number of both."""
        return self.head(self.dropout(self.blocks(self.stem(x))))


class InvertedResidual(nn.Module):
    """relu(x + project(depthwise(expand(x)))), without x if the number of channels changes.

    Args:
        n_in, n_out: channels.
        expansion_rate: factor from `n_in` to the channels of the depthwise convolution.
        stride: stride of the depthwise convolution; x is averaged if it is not 1.
    """

    def __init__(self, n_in: int, n_out: int, expansion_rate: float, stride: Stride):
        super().__init__()
        wide = multiple_of_8(n_in * expansion_rate)
        self.body = nn.Sequential(
            *(*conv_norm(n_in, wide, 1), nn.ReLU()),
            *(*conv_norm(wide, wide, 3, stride, groups=wide), nn.ReLU()),
            *conv_norm(wide, n_out, 1),
        )
        self.relu = nn.ReLU()
        self.has_shortcut = n_in == n_out
        self.shortcut = nn.AvgPool2d(3, stride, padding=1) if stride != (1, 1) else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n_in, bins, frames) -> (batch, n_out, bins / stride, frames / stride), rounded up."""
        y = self.body(x)
        return self.relu(y + self.shortcut(x) if self.has_shortcut else y)


def conv_norm(
    n_in: int, n_out: int, kernel: int, stride: Stride = 1, groups: int = 1
) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """A convolution, and a batch norm in place of its bias."""
    convolution = nn.Conv2d(n_in, n_out, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return convolution, nn.BatchNorm2d(n_out)


def multiple_of_8(channels: float) -> int:
    """The nearest multiple of 8, or the next one if that is less than 90 %; at least 8."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8
