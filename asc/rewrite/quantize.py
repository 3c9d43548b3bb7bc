"""8-bit quantization-aware training in eager mode: prepare -> fine-tune -> convert (Jacob et al., 2018).

Weights are symmetric, a scale for each output channel; activations are affine, 8 bits, one scale a tensor.
"""

import copy
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.ao import quantization as tq
from torch.ao.nn.intrinsic.qat import freeze_bn_stats

from asc.errors import InputError, check
from asc.rewrite.fold import Border, check_chain, copied_chain, fold, lasting_norms

ENGINES = ("onednn", "x86", "qnnpack")
FUSED = ((nn.Conv2d, nn.BatchNorm2d, nn.ReLU), (nn.Conv2d, nn.ReLU), (nn.Linear, nn.ReLU))


def safe_weight_bits(engine: str) -> int:
    """Bits that weights may have so that the engine's sums are right on every processor.

    Without VNNI instructions, x86 and onednn add products in pairs in 16 bits, and two products of 8 bits by 8 overflow
    them, silently. 7 bits by 8 do not (2 * 255 * 64 < 2**15), and qnnpack has no such limit.
    """
    return 8 if engine == "qnnpack" else 7


def usable(engine: str) -> str:
    """The engine, or the portable one where this machine lacks it: the integers of a network suit each engine.

    Raises:
        InputError: this machine has neither.
    """
    for name in (engine, "qnnpack"):
        if name in torch.backends.quantized.supported_engines:
            return name
    raise InputError(
        f"this torch has neither {engine} nor qnnpack and cannot run 8-bit networks: install another build"
    )


@contextmanager
def running_on(engine: str | None) -> Iterator[None]:
    """8-bit layers that are made or loaded inside run on this engine, here and later."""
    before = torch.backends.quantized.engine
    if engine:
        torch.backends.quantized.engine = usable(engine)
    try:
        yield
    finally:
        torch.backends.quantized.engine = before


@contextmanager
def without_notices() -> Iterator[None]:
    """Silence torch about the future of its own parts: this package asks for a torch that has them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.ao.quantization is deprecated", DeprecationWarning)
        warnings.filterwarnings("ignore", ".*must run observer before calling calculate_qparams")
        warnings.filterwarnings("ignore", ".*reduce_range will be deprecated")
        warnings.filterwarnings("ignore", "TypedStorage is deprecated")
        yield


class KernelObserver(tq.MovingAveragePerChannelMinMaxObserver):
    """Ranges of a kernel's filters; one of zeros gets the widest, for its bias must fit 32 bits on its grid."""

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Scale and zero point of each filter."""
        scale, zero_point = super().calculate_qparams()
        return torch.where(self.min_val == self.max_val, scale.max(), scale), zero_point


def qconfig(bits: int) -> tq.QConfig:
    """How 8-bit activations and weights of so many bits are observed and rounded in training.

    Not torch's fused modules: these find the scale of weights by another formula (maximum / 127) than the conversion
    does (maximum / 127.5).
    """
    activation = tq.FakeQuantize.with_args(observer=tq.MovingAverageMinMaxObserver, quant_min=0, quant_max=255)
    weight = tq.FakeQuantize.with_args(
        observer=KernelObserver,
        averaging_constant=1.0,  # a weight is what it is
        quant_min=-(2 ** (bits - 1)),
        quant_max=2 ** (bits - 1) - 1,
        dtype=torch.qint8,
        qscheme=torch.per_channel_symmetric,
    )
    return tq.QConfig(activation=activation, weight=weight)


class FakeQuantized(nn.Sequential):
    """A network in quantization-aware training: the ranges of its values are observed in training alone."""

    def train(self, mode: bool = True) -> "FakeQuantized":
        """Observe, or no longer."""
        self.apply(tq.enable_observer if mode else tq.disable_observer)
        return super().train(mode)


def prepare(net: nn.Module, engine: str, weight_bits: int, fold_norms: bool, lasting: Sequence[int]) -> FakeQuantized:
    """A copy of `net` that rounds as its 8-bit version will, ready to be fine-tuned.

    Args:
        net: a float network that is one chain of layers.
        engine: that will run it.
        weight_bits: of the kernels.
        fold_norms: fold all batch norms away but those at the positions `lasting`.
        lasting: see `asc.rewrite.fold.lasting_norms`.
    """
    layers = list(fold(net, lasting)) if fold_norms else copied_chain(net)
    borders = [layer for layer in layers if isinstance(layer, Border)]  # of the input, while it is float
    rest = [layer for layer in layers if not isinstance(layer, Border)]
    sequence = FakeQuantized(*borders, tq.QuantStub(), *rest, tq.DeQuantStub()).train()
    with without_notices(), running_on(engine):
        tq.fuse_modules_qat(sequence, fusible(sequence), inplace=True)
        sequence.qconfig = qconfig(weight_bits)  # type: ignore[assignment]
        tq.prepare_qat(sequence, inplace=True)
        for layer in sequence.children():
            if hasattr(layer, "weight_fake_quant"):  # weights can be observed at once
                layer.weight_fake_quant(layer.weight)  # type: ignore[operator]
    return sequence.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def fusible(sequence: nn.Sequential) -> list[list[str]]:
    """Names of the neighbours that become one layer."""
    groups, layers = [], list(sequence)
    for start in range(len(layers)):
        for kinds in FUSED:
            if tuple(type(layer) for layer in layers[start : start + len(kinds)]) == kinds:
                groups.append([str(start + step) for step in range(len(kinds))])
                break
    return groups


def convert(prepared: nn.Module, engine: str) -> nn.Module:
    """The 8-bit network, for the CPU, of a fine-tuned one from `prepare`."""
    with without_notices(), running_on(engine):
        return tq.convert(copy.deepcopy(prepared).cpu().eval())


def kernels(net: nn.Module) -> Iterator[Tensor]:
    """The kernels of the convolutions and dense layers."""
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            yield layer.weight


class QAT(pl.Callback):
    """The phase `qat`: 8-bit quantization-aware fine-tuning of a float or pruned classifier, and conversion.

    Weights that are zero at its start stay so, which keeps what pruning has won.

    Args:
        engine: that will run the network: onednn or x86 on PCs and servers, qnnpack anywhere.
        fold: fold batch norms into the convolutions first (`asc.rewrite.fold`).
        weight_bits: of the kernels; None takes what the engine adds up without overflow on every processor: 8 on
            qnnpack, 7 on the others, where 8 suit processors with VNNI alone.
        frozen_observers: last epochs in which the ranges of values are no longer observed, but kept; None: a fifth.
        frozen_norms: last epochs in which batch norms, where any are left, keep their statistics; None: two fifths.
    """

    def __init__(
        self,
        engine: str = "onednn",
        fold: bool = True,
        weight_bits: int | None = None,
        frozen_observers: int | None = None,
        frozen_norms: int | None = None,
    ):
        if engine not in ENGINES:
            raise InputError(f"phase.engine={engine} is not known: choose {', '.join(ENGINES)}")
        if engine not in torch.backends.quantized.supported_engines:
            there = [name for name in ENGINES if name in torch.backends.quantized.supported_engines]
            raise InputError(f"phase.engine={engine} is not on this machine: choose {' or '.join(there)}")
        if not isinstance(fold, bool):
            raise InputError(f"phase.fold={fold} is not known: choose true or false")
        if weight_bits is not None:
            check("phase.weight_bits", weight_bits, int, 2, 8)
        for name, epochs in (("frozen_observers", frozen_observers), ("frozen_norms", frozen_norms)):
            if epochs is not None:
                check(f"phase.{name}", epochs, int, 0)
        self.engine, self.fold, self.weight_bits = engine, fold, weight_bits or safe_weight_bits(engine)
        self.frozen_observers, self.frozen_norms = frozen_observers, frozen_norms
        self.masks: list[tuple[Tensor, Tensor]] = []

    def begin(self, model: Any) -> Any:
        """The classifier to fine-tune: `model` with fake quantization, or `model` itself where it is half done."""
        if model.stage == "int8":
            raise InputError("the checkpoint is quantized already: give best.ckpt or pruned.ckpt of its origin")
        settings: dict[str, Any] = {"engine": self.engine, "weight_bits": self.weight_bits, "fold_norms": self.fold}
        if model.stage == "qat":
            before = model.hparams["quantization"]
            differing = sorted(key for key in settings if before[key] != settings[key])
            if differing:
                raise InputError(
                    f"the checkpoint was quantized with another {', '.join(differing)}: "
                    "resume with the settings of its run, which are in its .hydra/overrides.yaml"
                )
            return model
        check_chain(model.net, model.example_features())
        settings["lasting"] = lasting_norms(model.net) if self.fold else []
        return model.with_net(prepare(model.net, **settings), stage="qat", quantization=settings)

    def finish(self, model: Any) -> Any:
        """The 8-bit classifier, on the CPU."""
        return model.with_net(convert(model.net, self.engine), stage="int8")

    def on_fit_start(self, trainer: pl.Trainer, model: Any) -> None:
        """Settle the schedule, and note which weights are zero.

        Raises:
            InputError: there is no epoch left in which to observe ranges.
        """
        epochs = trainer.max_epochs or 1
        if self.frozen_observers is None:
            self.frozen_observers = epochs // 5
        if self.frozen_norms is None:
            self.frozen_norms = 2 * epochs // 5
        if self.frozen_observers >= epochs:
            raise InputError(
                f"phase.frozen_observers={self.frozen_observers} leaves none of trainer.max_epochs={epochs} to observe "
                "ranges in: give less"
            )
        self.masks = [(kernel, kernel != 0) for kernel in kernels(model.net)]

    def on_train_epoch_start(self, trainer: pl.Trainer, model: Any) -> None:
        """Freeze what is to settle before the end."""
        left = (trainer.max_epochs or 1) - trainer.current_epoch
        model.net.apply(tq.disable_observer if left <= (self.frozen_observers or 0) else tq.enable_observer)
        if left <= (self.frozen_norms or 0):
            model.net.apply(freeze_bn_stats)
            for layer in model.net.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    layer.eval()

    @torch.no_grad()
    def on_train_batch_end(self, trainer: pl.Trainer, model: Any, *args: Any) -> None:
        """Put the zeros back."""
        for kernel, mask in self.masks:
            kernel.mul_(mask)
