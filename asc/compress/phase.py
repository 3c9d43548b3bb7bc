"""The interface of a compression phase."""

from abc import ABC, abstractmethod

import pytorch_lightning as pl

from asc.classifier import SceneClassifier
from asc.errors import InputError


class Phase(pl.Callback, ABC):
    """A step of compression: `begin`, fine-tuning, `finish`. It is a Lightning callback during fine-tuning.

    To add a phase, write a subclass in any importable module and a file:

        # conf/phase/mine.yaml
        _target_: my_phases.Mine

    Attributes:
        checkpoint: name of the file that saves each epoch, so that an interrupted run can resume; None if the phase
            cannot resume.
    """

    checkpoint: str | None = None

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

    def is_unfinished(self, model: SceneClassifier) -> bool:
        """Whether the given classifier is from this phase's `checkpoint`, so that its run resumes."""
        return False
