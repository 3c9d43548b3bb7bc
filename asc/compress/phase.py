"""The interface of a compression phase."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from asc.classifier import SceneClassifier
from asc.errors import InputError
from asc.loading import read_checkpoint


class Phase(pl.Callback, ABC):
    """A step of compression: `begin`, fine-tuning, `finish`. It is a Lightning callback during fine-tuning.

    To add a phase, write a subclass in any importable module and a file:

        # conf/phase/mine.yaml
        _target_: my_phases.Mine

    Each epoch is saved together with the phase's class and arguments. A resumed run must match: it begins anew
    from the same checkpoints, and then loads the saved weights.

    Attributes:
        checkpoint: file below the run's directory, saved after each epoch.
        arguments: arguments of the constructor by name, as strings.
        masks: pairs of a weight tensor and its mask, of the same shape; weights stay 0 where the mask is 0.
    """

    checkpoint = "checkpoints/last.ckpt"
    state_key = "phase"  # one per run
    arguments: dict[str, str]
    masks: Sequence[tuple[Tensor, Tensor]] = ()

    def __new__(cls, *args: Any, **kwargs: Any) -> "Phase":
        """Store the constructor's arguments, independent of the subclass."""
        phase = super().__new__(cls)
        parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
        values = {parameter.name: parameter.default for parameter in parameters}
        values |= {**dict(zip(values, args, strict=False)), **kwargs}
        phase.arguments = {name: repr(value) for name, value in values.items()}
        return phase

    @abstractmethod
    def begin(self, model: SceneClassifier, *others: SceneClassifier) -> SceneClassifier:
        """Return the classifier to fine-tune, from the given one or several (checkpoint=[A,B,C]).

        Raises:
            InputError: the phase cannot start from them.
        """

    @abstractmethod
    def finish(self, model: SceneClassifier) -> SceneClassifier:
        """Return the compressed classifier, from the fine-tuned one. It is saved as STAGE.ckpt for its `stage`."""

    def check_source(self, model: SceneClassifier, others: Sequence[SceneClassifier]) -> None:
        """Reject all but one float or pruned classifier.

        Raises:
            InputError: there are others, or `model` is quantized.
        """
        if others:
            raise InputError(f"invalid checkpoint: expected one for {type(self).__name__}, not {1 + len(others)}")
        if model.stage not in ("float", "pruned"):
            raise InputError(
                f"invalid checkpoint of stage {model.stage}: it is already quantized; "
                "pass the float or pruned checkpoint it came from"
            )

    @torch.no_grad()
    def apply_masks(self) -> None:
        """Set the masked weights to zero."""
        for weight, mask in self.masks:
            weight.mul_(mask)

    def on_train_batch_end(self, trainer: pl.Trainer, model: SceneClassifier, *args: Any) -> None:
        """Apply the masks after the optimizer's step."""
        self.apply_masks()

    def on_train_end(self, trainer: pl.Trainer, model: SceneClassifier) -> None:
        """Also apply the masks to weights averaged over epochs."""
        self.apply_masks()

    def state_dict(self) -> dict[str, str]:
        """The class and its arguments, for `check_resumable`."""
        return {"class": f"{type(self).__module__}.{type(self).__qualname__}", **self.arguments}

    def check_resumable(self, path: str) -> None:
        """Reject a checkpoint unless it is of an unfinished run of this phase with these arguments.

        Raises:
            InputError: names the arguments that differ.
        """
        saved, own = phase_of(read_checkpoint(path)), self.state_dict()
        if not saved or saved.get("class") != own["class"]:
            raise InputError(f"invalid resume={path}: expected {self.checkpoint} of a run of this phase")
        if differing := [f"phase.{name}" for name, value in own.items() if saved.get(name, value) != value]:
            raise InputError(
                f"invalid resume={path}: its run has a different {', '.join(differing)}; "
                "resume with the settings in its .hydra/overrides.yaml"
            )


def phase_of(checkpoint: dict[str, Any]) -> dict[str, str] | None:
    """The phase's class and arguments in the checkpoint of an unfinished run; None in any other checkpoint."""
    return checkpoint.get("callbacks", {}).get(Phase.state_key)
