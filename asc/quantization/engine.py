"""PyTorch's quantized engines, which run 8-bit layers: which one, and how many bits of a weight it can accumulate."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Literal, get_args

import torch
from pydantic import Field

from asc.errors import InputError

Engine = Literal["onednn", "x86", "qnnpack"]
ENGINES: tuple[Engine, ...] = get_args(Engine)
WeightBits = Annotated[int, Field(ge=2, le=8)]


def safe_weight_bits(engine: str) -> int:
    """The most bits of a weight for which the engine's sums are right on every processor.

    Without VNNI instructions, x86 and onednn add products in pairs in 16 bits, and two products of 8 bits by 8 overflow
    them, silently. 7 bits by 8 do not (2 * 255 * 64 < 2**15), and qnnpack has no such limit.
    """
    return 8 if engine == "qnnpack" else 7


@contextmanager
def running_on(engine: str | None) -> Iterator[None]:
    """8-bit layers that are built or loaded in this block run on this engine, also afterwards; None: torch's choice.

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
    """Silence torch's notices that torch.ao and quantized tensors will be removed: the pinned version has them.

    torch warns once per process, at the first quantized tensor, which a conversion or loading makes.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.ao.quantization is deprecated", DeprecationWarning)
        warnings.filterwarnings("ignore", "torch.quantize_per_tensor, torch.quantize_per_channel and .* are deprecated")
        warnings.filterwarnings("ignore", ".*must run observer before calling calculate_qparams")
        warnings.filterwarnings("ignore", ".*reduce_range will be deprecated")
        warnings.filterwarnings("ignore", "TypedStorage is deprecated")
        yield
