"""The report's network, Table 2."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt
from torch import Tensor, nn

from asc.errors import InputError
from asc.nets.conv_norm_pool import conv_norm_pool, is_fusible
from asc.nets.layers import AvgPoolOverTime, Dropout, MaxPoolOverTime, MeanStdPoolOverTime, scaled_dropout
from asc.settings import BelowOne, Epsilon, Filters, Momentum, Scale, checked

POOLINGS = {"max": MaxPoolOverTime, "average": AvgPoolOverTime, "mean_std": MeanStdPoolOverTime}


class Block(nn.Sequential):
    """Bn - Cv - ReLU - Bn - Mp - Dr, or without the first batch norm."""

    def forward(self, x: Tensor) -> Tensor:
        """Layer by layer; in training, where it is faster, convolution to pooling by `conv_norm_pool`."""
        layers: list[Any] = list(self)
        *first, convolution, relu, norm, pool, dropout = layers
        # torch.fx traces the layers with a Proxy, not a Tensor
        if not (self.training and isinstance(x, Tensor) and is_fusible(x, convolution, relu, norm, pool)):
            return super().forward(x)
        for layer in first:
            x = layer(x)
        return dropout(conv_norm_pool(x, convolution, norm, pool))


def block(n_in: int, n_out: int, kernel: int, pool: nn.Module, drop: float, bn: dict, bn_first: bool) -> Block:
    """A block; `bn_first=False` omits the first batch norm."""
    first = [nn.BatchNorm2d(n_in, **bn)] if bn_first else []
    return Block(
        *first,
        nn.Conv2d(n_in, n_out, kernel, padding=kernel // 2),  # an integer: 8-bit convolutions do not support 'same'
        nn.ReLU(inplace=True),
        nn.BatchNorm2d(n_out, **bn),
        pool,
        Dropout(drop),
    )


class PhamCNN(nn.Module):
    """Four blocks and a dense layer; 128 x 428 in, 64 x 107, 32 x 54, 16 x 13, 1 x 1, `n_classes` logits out.

    Table 2's widths need pooling that rounds up in block 2 (107 to 54) and down in block 3 (54 to 13).

    Args:
        n_classes: number of scenes.
        filters: number in each of the four convolutions (Table 2; fewer after structured pruning).
        dropouts: fraction of the values dropped at the end of each block (Table 2: 20, 25, 30, 35 %).
        dropout_scale: factor on all of these; less than 1 for few clips. Ours.
        bn_first_block_only: keep block 1's first batch norm and omit those before the other convolutions: 62,855
            trained and running values, the report's 245.5 KB, instead of Table 2's 63,751 (for three classes).
        pooling: global pooling in block 4: "max" (Table 2), "average", or "mean_std", mean and standard deviation,
            which doubles the inputs of the dense layer. All but the first are ours.
        bn_momentum: weight of the newest batch in batch norm's running statistics. Ours; Keras' default is 0.01,
            which takes some 500 steps to settle.
        bn_eps: added to batch norm's variance. Keras' default.
    """

    @checked("net")
    def __init__(
        self,
        n_classes: PositiveInt,
        filters: Annotated[Sequence[Filters], Field(min_length=4, max_length=4)] = (32, 64, 128, 256),
        dropouts: Annotated[Sequence[BelowOne], Field(min_length=4, max_length=4)] = (0.20, 0.25, 0.30, 0.35),
        dropout_scale: Scale = 1.0,
        bn_first_block_only: bool = False,
        pooling: Literal["max", "average", "mean_std"] = "max",
        bn_momentum: Momentum = 0.1,
        bn_eps: Epsilon = 1e-3,
    ):
        super().__init__()
        n1, n2, n3, n4 = filters
        bn = {"momentum": bn_momentum, "eps": bn_eps}
        bn_first = not bn_first_block_only
        drop = [scaled_dropout(dropout, dropout_scale) for dropout in dropouts]
        self.blocks = nn.Sequential(
            block(1, n1, 3, nn.MaxPool2d((2, 4), ceil_mode=True), drop[0], bn, bn_first=True),
            block(n1, n2, 3, nn.MaxPool2d((2, 2), ceil_mode=True), drop[1], bn, bn_first),
            block(n2, n3, 1, nn.MaxPool2d((2, 4)), drop[2], bn, bn_first),
            block(n3, n4, 1, POOLINGS[pooling](), drop[3], bn, bn_first),
        )
        self.dense = nn.Linear(2 * n4 if pooling == "mean_std" else n4, n_classes)

    @property
    def head(self) -> nn.Module:
        """The layer that computes the logits."""
        return self.dense

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, n_classes) of features (batch, 1, n_bins, frames).

        Raises:
            InputError: fewer than 5 bins or 25 frames, of which the pooling would leave nothing.
        """
        bins, frames = x.shape[-2:]
        if bins < 5 or frames < 25:
            percent = 100 * (frames - 1) // 24  # of the hop, for 25 frames
            raise InputError(
                f"invalid features of {bins} x {frames}: expected at least 5 bins and 25 frames for PhamCNN's pooling; "
                f"give longer clips, reduce frontend.hop_length to {percent} %, or enlarge frontend.frames"
            )
        return self.dense(self.blocks(x).flatten(1))
