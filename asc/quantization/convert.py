"""PyTorch's quantized engines, conversion to 8-bit integers, and a faster first convolution."""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal, get_args

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.ao import quantization as tq
from torch.ao.nn.intrinsic import qat as nniqat
from torch.ao.nn.intrinsic import quantized as nniq

from asc.errors import InputError

Engine = Literal["onednn", "x86", "qnnpack"]
ENGINES: tuple[Engine, ...] = get_args(Engine)
WeightBits = Annotated[int, Field(ge=2, le=8)]


def safe_weight_bits(engine: str) -> int:
    """Maximum bits of a weight for which the engine's sums are exact on every processor.

    Without VNNI instructions, x86 and onednn add products in pairs in 16 bits, and two products of 8 bits by 8 overflow
    silently. 7 bits by 8 do not (2 * 255 * 64 < 2**15), and qnnpack has no such limit.
    """
    return 8 if engine == "qnnpack" else 7


@contextmanager
def running_on(engine: str | None) -> Iterator[None]:
    """Use this engine for 8-bit layers built or loaded in this block, even afterwards; None: torch's default.

    qnnpack stands in for an engine that this machine lacks: a network's integers run on any.

    Raises:
        InputError: this machine has neither.
    """
    before, supported = torch.backends.quantized.engine, torch.backends.quantized.supported_engines
    if engine:
        usable = [name for name in (engine, "qnnpack") if name in supported]
        if not usable:
            raise InputError(f"cannot run 8-bit networks: this torch has neither {engine} nor qnnpack; install another")
        torch.backends.quantized.engine = usable[0]
    try:
        yield
    finally:
        torch.backends.quantized.engine = before


@contextmanager
def without_deprecation_notices() -> Iterator[None]:
    """Silence torch's deprecation of torch.ao and quantized tensors: the pinned version includes them.

    torch warns once per process, at the first quantized tensor, which a conversion or loading makes.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.ao.quantization is deprecated", DeprecationWarning)
        warnings.filterwarnings("ignore", "torch.quantize_per_tensor, torch.quantize_per_channel and .* are deprecated")
        warnings.filterwarnings("ignore", ".*must run observer before calling calculate_qparams")
        warnings.filterwarnings("ignore", ".*reduce_range will be deprecated")
        warnings.filterwarnings("ignore", "TypedStorage is deprecated")
        yield


def convert(prepared: nn.Module, engine: str) -> nn.Module:
    """Convert a fine-tuned network of `prepare` to 8 bits, on the CPU."""
    with without_deprecation_notices(), running_on(engine):
        mapping = {**tq.get_default_static_quant_module_mappings(), nniqat.ConvReLU2d: PairedConvReLU2d}
        return tq.convert(copy.deepcopy(prepared).cpu().eval(), mapping)


class PairedConvReLU2d(nniq.ConvReLU2d):
    """torch's layer with the same integers, but in two thirds of the time for a single input channel.

    Integer kernels multiply input channels by twos or fours, and a single one leaves lanes empty. But as they lie in
    memory, a channel's columns two by two are two channels of half the width, and pairs of columns of the output have
    twice the filters:

        y[2 j + s] = sum over t of w[t] x[2 j + s + t],   s = 0, 1

    is a convolution of the pairs (x[2 j], x[2 j + 1]) with w, and with w one column later.
    """

    def set_weight_bias(self, w: Tensor, b: Tensor | None) -> None:
        """Pack the weights, on construction and on loading; for a single channel also in pairs."""
        super().set_weight_bias(w, b)
        single = self.in_channels == 1 and {*self.stride, *self.dilation} == {1} and not any(self.padding)
        self.paired = pack_pairs(w, b) if single and w.qscheme() == torch.per_channel_affine else None

    def forward(self, input: Tensor) -> Tensor:
        """(batch, channels, height, width) of 8 bits, as torch's layer."""
        frames = input.shape[3] - self.kernel_size[1] + 1
        if self.paired is None or input.shape[3] % 2 or frames % 2:
            return super().forward(input)
        pairs = input.permute(0, 2, 3, 1).unflatten(2, (-1, 2)).squeeze(4)  # (batch, height, width / 2, 2)
        y = torch.ops.quantized.conv2d_relu(pairs.permute(0, 3, 1, 2), self.paired, self.scale, self.zero_point)
        return y.permute(0, 2, 3, 1).unflatten(3, (2, -1)).flatten(2, 3).permute(0, 3, 1, 2)


def pack_pairs(w: Tensor, b: Tensor | None) -> Any:
    """Weights (filters, 1, height, width) as torch packs (2 filters, 2, height, pairs of columns)."""
    unused = 1 - w.shape[3] % 2  # a column, for an even width
    shifted = torch.cat([F.pad(w.int_repr(), (s, 1 - s + unused)) for s in (0, 1)])
    integers = shifted.unflatten(3, (-1, 2)).squeeze(1).permute(0, 3, 1, 2).contiguous()
    scale, zero_point = w.q_per_channel_scales().repeat(2), w.q_per_channel_zero_points().repeat(2)
    weights = torch._make_per_channel_quantized_tensor(integers, scale, zero_point, axis=0)
    return torch.ops.quantized.conv2d_prepack(weights, None if b is None else b.repeat(2), [1, 1], [0, 0], [1, 1], 1)
