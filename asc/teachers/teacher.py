"""The interface of a teacher: a pretrained network that maps a waveform to a vector."""

import hashlib
from abc import ABC, abstractmethod
from pathlib import Path

from torch import Tensor, nn


class Teacher(nn.Module, ABC):
    """A pretrained network from waveforms to embeddings, on which a classifier of few labelled clips is fitted.

    To add a teacher, write a subclass in any importable module and a file:

        # conf/teacher/mine.yaml
        _target_: my_teachers.Mine

    Attributes:
        path: file of its weights.
        sample_rate: Hz of the waveforms.
        tag_names: names of the sounds that the network was trained to recognize; empty if there are none.
    """

    path: Path
    sample_rate: int
    tag_names: list[str] = []

    @abstractmethod
    def forward(self, wave: Tensor) -> Tensor:
        """Embeddings (batch, width) of wave (batch, samples), mono, peak at 1, at `sample_rate`."""

    def tags(self, embedding: Tensor) -> Tensor:
        """Logits (batch, len(tag_names)) from embeddings (batch, width)."""
        return embedding[:, :0]

    def digest(self) -> str:
        """Identifies its embeddings, for the cache: the hash of its file, and settings that change them."""
        with open(self.path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
