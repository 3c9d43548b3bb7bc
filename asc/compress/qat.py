"""The phase `qat`: 8-bit quantization-aware training (Jacob et al., 2018)."""

from typing import Any

import pytorch_lightning as pl
import torch
from pydantic import NonNegativeInt
from torch import nn
from torch.ao import quantization as tq
from torch.ao.nn.intrinsic.qat import freeze_bn_stats

from asc.classifier import SceneClassifier
from asc.compress.phase import Phase
from asc.compress.prune import weight_tensors
from asc.errors import InputError
from asc.quantization.convert import ENGINES, Engine, WeightBits, convert, safe_weight_bits
from asc.quantization.fold import fold, unfoldable_norms
from asc.quantization.graph import check_same, layer_graph
from asc.quantization.prepare import prepare
from asc.settings import checked


class QAT(Phase):
    """Fine-tune a float or pruned classifier with fake quantization, then convert it to 8-bit integers.

    Weights that are zero at the start stay zero, which preserves pruning.

    Args:
        engine: PyTorch's engine that will run the network: onednn or x86 on PCs and servers, qnnpack anywhere. None:
            onednn if this machine has it, otherwise qnnpack, as on Apple Silicon.
        fold: fold batch norms into the convolutions first (`asc.quantization.fold`).
        weight_bits: bits of a weight; None: the most that the engine accumulates without overflow on every processor, 8
            on qnnpack and 7 on the others, where 8 need a processor with VNNI.
        freeze_observer_epochs: number of last epochs in which the observed ranges are frozen; None: a fifth.
        freeze_bn_epochs: number of last epochs in which the statistics of remaining batch norms are frozen; None: two
            fifths of all.
    """

    checkpoint = "qat.ckpt"

    @checked("phase")
    def __init__(
        self,
        engine: Engine | None = None,
        fold: bool = True,
        weight_bits: WeightBits | None = None,
        freeze_observer_epochs: NonNegativeInt | None = None,
        freeze_bn_epochs: NonNegativeInt | None = None,
    ):
        supported = [name for name in ENGINES if name in torch.backends.quantized.supported_engines]
        engine = engine or ("onednn" if "onednn" in supported else "qnnpack")
        if engine not in supported:
            raise InputError(f"invalid phase.engine={engine}: expected {' or '.join(supported)} on this machine")
        self.engine, self.fold, self.weight_bits = engine, fold, weight_bits or safe_weight_bits(engine)
        self.freeze_observer_epochs, self.freeze_bn_epochs = freeze_observer_epochs, freeze_bn_epochs

    def begin(self, model: SceneClassifier, *others: SceneClassifier) -> SceneClassifier:
        """Return `model` with fake quantization."""
        self.check_source(model, others)
        unfoldable = unfoldable_norms(model.net) if self.fold else []
        graph = fold(model.net, unfoldable) if self.fold else layer_graph(model.net)
        check_same(graph, model.net, model.example_features())
        settings: dict[str, Any] = {"engine": self.engine, "weight_bits": self.weight_bits}
        settings |= {"fold_norms": self.fold, "unfoldable": unfoldable}
        return model.with_net(prepare(model.net, **settings), stage="qat", quantization=settings)

    def finish(self, model: SceneClassifier) -> SceneClassifier:
        """Return the 8-bit classifier, on the CPU."""
        return model.with_net(convert(model.net, self.engine), stage="int8")

    def frozen_epochs(self, epochs: int) -> tuple[int, int]:
        """Numbers of last epochs, of `epochs`, in which observers and batch norms are frozen."""
        observers = epochs // 5 if self.freeze_observer_epochs is None else self.freeze_observer_epochs
        norms = 2 * epochs // 5 if self.freeze_bn_epochs is None else self.freeze_bn_epochs
        return observers, norms

    def on_fit_start(self, trainer: pl.Trainer, model: SceneClassifier) -> None:
        """Mask the weights that are zero.

        Raises:
            InputError: no epoch is left to observe ranges.
        """
        epochs = trainer.max_epochs or 1
        observers, _ = self.frozen_epochs(epochs)
        if observers >= epochs:
            raise InputError(
                f"invalid phase.freeze_observer_epochs={observers}: expected less than trainer.max_epochs={epochs}, "
                "or no epoch observes ranges"
            )
        self.masks = [(weight, weight != 0) for weight in weight_tensors(model.net)]

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
