"""What compress.py asks of a phase."""

from abc import ABC, abstractmethod

import pytorch_lightning as pl

from asc.classifier import SceneClassifier
from asc.errors import InputError


class Phase(pl.Callback, ABC):
    """A step of compression: `begin`, fine-tuning, `finish`. During the fine-tuning it is a Lightning callback.

    A phase of your own is one class, in any module that can be imported, and one file:

        # conf/phase/mine.yaml
        _target_: my_phases.Mine

    Attributes:
        checkpoint: file of the run in which each epoch is saved, for an interrupted run to go on from; None for a
            phase that starts again.
    """

    checkpoint: str | None = None

    @abstractmethod
    def begin(self, model: SceneClassifier, *others: SceneClassifier) -> SceneClassifier:
        """The classifier to fine-tune, made of the one that the user gave, or of several (checkpoint=[A,B,C]).

        Raises:
            InputError: the phase cannot start from it.
        """

    @abstractmethod
    def finish(self, model: SceneClassifier) -> SceneClassifier:
        """The compressed classifier, made of the fine-tuned one. It is saved as STAGE.ckpt, after its `stage`."""

    def refuse_others(self, others: tuple[SceneClassifier, ...]) -> None:
        """For a phase that takes one classifier.

        Raises:
            InputError: there are others.
        """
        if others:
            raise InputError(f"{type(self).__name__} takes one checkpoint, not {1 + len(others)}: give one")

    def is_unfinished(self, model: SceneClassifier) -> bool:
        """Whether the classifier that the user gave is this phase's own `checkpoint`: then its run goes on."""
        return False
