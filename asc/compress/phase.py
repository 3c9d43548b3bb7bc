"""The interface of a compression phase."""

import inspect
from abc import ABC, abstractmethod
from typing import Any

import pytorch_lightning as pl

from asc.classifier import SceneClassifier
from asc.errors import InputError
from asc.loading import read_checkpoint


class Phase(pl.Callback, ABC):
    """A step of compression: `begin`, fine-tuning, `finish`. It is a Lightning callback during fine-tuning.

    To add a phase, write a subclass in any importable module and a file:

        # conf/phase/mine.yaml
        _target_: my_phases.Mine

    A run saves each epoch, and the attributes named as the constructor's arguments with it. A run that resumes begins
    anew with the same checkpoints; then the weights are replaced by those saved.

    Attributes:
        checkpoint: the file below the run's directory that saves each epoch.
    """

    checkpoint = "checkpoints/last.ckpt"
    state_key = "phase"  # one a run

    @abstractmethod
    def begin(self, model: SceneClassifier, *others: SceneClassifier) -> SceneClassifier:
        """Return the classifier to fine-tune, from the given one or several (checkpoint=[A,B,C]).

        Raises:
            InputError: the phase cannot start from them.
        """

    @abstractmethod
    def finish(self, model: SceneClassifier) -> SceneClassifier:
        """Return the compressed classifier, from the fine-tuned one. It is saved as STAGE.ckpt for its `stage`."""

    def refuse_others(self, others: tuple[SceneClassifier, ...]) -> None:
        """Refuse more than one classifier.

        Raises:
            InputError: there are others.
        """
        if others:
            raise InputError(f"{type(self).__name__} takes one checkpoint, not {1 + len(others)}: give checkpoint=FILE")

    def state_dict(self) -> dict[str, str]:
        """The class and its settings as text, by which `check_resumable` knows the checkpoint of an unfinished run."""
        settings = {name: repr(getattr(self, name, None)) for name in inspect.signature(type(self)).parameters}
        return {"class": f"{type(self).__module__}.{type(self).__qualname__}", **settings}

    def check_resumable(self, path: str) -> None:
        """Refuse to resume from a checkpoint that is not of a run of this phase with these settings.

        Raises:
            InputError: names what differs.
        """
        saved, own = unfinished_phase(path), self.state_dict()
        if not saved or saved.get("class") != own["class"]:
            raise InputError(f"resume={path} is not of a run of this phase: give its {self.checkpoint}")
        if differing := [name for name, value in own.items() if saved.get(name, value) != value]:
            raise InputError(
                f"resume={path} is of a run with another phase.{', phase.'.join(differing)}: "
                "resume with its settings, which are in its .hydra/overrides.yaml"
            )


def check_float(model: SceneClassifier) -> None:
    """Refuse a quantized classifier.

    Raises:
        InputError: says which checkpoint to give.
    """
    if model.stage not in ("float", "pruned"):
        raise InputError("the checkpoint is quantized already: give best.ckpt or pruned.ckpt of its origin")


def unfinished_phase(path: str) -> dict[str, Any] | None:
    """The phase's class and settings in the checkpoint of an unfinished run; None for any other checkpoint."""
    callbacks = read_checkpoint(path).get("callbacks")
    state = callbacks.get(Phase.state_key) if isinstance(callbacks, dict) else None
    return state if isinstance(state, dict) else None


def refuse_unfinished(path: str) -> None:
    """Refuse to compress what an unfinished run has saved.

    Raises:
        InputError: says what to give.
    """
    if unfinished_phase(path):
        raise InputError(
            f"checkpoint={path} is of a run that was not finished: give its finished checkpoint, "
            f"and to resume it, give resume={path} beside its own settings"
        )
