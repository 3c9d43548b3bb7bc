"""The phase `qat`: 8-bit quantization-aware training (Jacob et al., 2018)."""

from typing import Any

import pytorch_lightning as pl
import torch
from pydantic import NonNegativeInt
from torch import Tensor, nn
from torch.ao import quantization as tq
from torch.ao.nn.intrinsic.qat import freeze_bn_stats

from asc.classifier import SceneClassifier
from asc.compress.phase import Phase, check_float
from asc.compress.prune import apply_masks
from asc.errors import InputError
from asc.quantization.fold import fold, unfoldable_norms
from asc.quantization.graph import check_same, layer_graph
from asc.quantization.quantize import ENGINES, Engine, WeightBits, convert, kernels, prepare, safe_weight_bits
from asc.settings import checked


class QAT(Phase):
    """The phase `qat`: 8-bit quantization-aware fine-tuning of a float or pruned classifier, and conversion.

    Weights that are zero at its start stay so, which keeps what pruning has won.

    Args:
        engine: that will run the network: onednn or x86 on PCs and servers, qnnpack anywhere.
        fold: fold batch norms into the convolutions first (`asc.quantization.fold`).
        weight_bits: of the kernels; None: as many as the engine can add up without overflow on every processor, 8 on
            qnnpack and 7 on the others, where 8 need a processor with VNNI.
        freeze_observer_epochs: number of last epochs in which the observed ranges are frozen; None: a fifth of all.
        freeze_bn_epochs: number of last epochs in which the statistics of batch norms, if any are left, are frozen;
            None: two fifths of all.
    """

    checkpoint = "qat.ckpt"

    @checked("phase")
    def __init__(
        self,
        engine: Engine = "onednn",
        fold: bool = True,
        weight_bits: WeightBits | None = None,
        freeze_observer_epochs: NonNegativeInt | None = None,
        freeze_bn_epochs: NonNegativeInt | None = None,
    ):
        if engine not in torch.backends.quantized.supported_engines:
            there = [name for name in ENGINES if name in torch.backends.quantized.supported_engines]
            raise InputError(f"invalid phase.engine={engine}: this machine runs {' and '.join(there)}")
        self.engine, self.fold, self.weight_bits = engine, fold, weight_bits or safe_weight_bits(engine)
        self.freeze_observer_epochs, self.freeze_bn_epochs = freeze_observer_epochs, freeze_bn_epochs
        self.masks: list[tuple[Tensor, Tensor]] = []

    def begin(self, model: SceneClassifier, *others: SceneClassifier) -> SceneClassifier:
        """`model` with fake quantization."""
        self.refuse_others(others)
        check_float(model)
        unfoldable = unfoldable_norms(model.net) if self.fold else []
        rewritten = fold(model.net, unfoldable) if self.fold else layer_graph(model.net)
        check_same(rewritten, model.net, model.example_features())
        settings: dict[str, Any] = {"engine": self.engine, "weight_bits": self.weight_bits}
        settings |= {"fold_norms": self.fold, "unfoldable": unfoldable}
        return model.with_net(prepare(model.net, **settings), stage="qat", quantization=settings)

    def finish(self, model: SceneClassifier) -> SceneClassifier:
        """The 8-bit classifier, on the CPU."""
        return model.with_net(convert(model.net, self.engine), stage="int8")

    def frozen_epochs(self, epochs: int) -> tuple[int, int]:
        """Numbers of last epochs, of `epochs`, in which observers and batch norms are frozen."""
        observers = epochs // 5 if self.freeze_observer_epochs is None else self.freeze_observer_epochs
        norms = 2 * epochs // 5 if self.freeze_bn_epochs is None else self.freeze_bn_epochs
        return observers, norms

    def on_fit_start(self, trainer: pl.Trainer, model: SceneClassifier) -> None:
        """Store which weights are zero.

        Raises:
            InputError: no epoch is left in which to observe ranges.
        """
        epochs = trainer.max_epochs or 1
        observers, _ = self.frozen_epochs(epochs)
        if observers >= epochs:
            raise InputError(
                f"phase.freeze_observer_epochs={observers} leaves none of trainer.max_epochs={epochs} to observe "
                "ranges in: give less"
            )
        self.masks = [(kernel, kernel != 0) for kernel in kernels(model.net)]

    def on_train_epoch_start(self, trainer: pl.Trainer, model: SceneClassifier) -> None:
        """Freeze observers and batch norms in the last epochs."""
        epochs = trainer.max_epochs or 1
        left = epochs - trainer.current_epoch
        observers, norms = self.frozen_epochs(epochs)
        model.net.apply(tq.disable_observer if left <= observers else tq.enable_observer)
        if left <= norms:
            model.net.apply(freeze_bn_stats)
            for layer in model.net.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    layer.eval()

    def on_train_batch_end(self, trainer: pl.Trainer, model: SceneClassifier, *args: Any) -> None:
        """Put the zeros back."""
        apply_masks(self.masks)
