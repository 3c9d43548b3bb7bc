"""asc: acoustic scene classification small enough for the edge."""

from asc.classifier import SceneClassifier
from asc.errors import InputError

__all__ = ["InputError", "SceneClassifier"]
