"""asc: acoustic scene classification small enough for the edge."""

from typing import TYPE_CHECKING, Any

from asc.errors import InputError

if TYPE_CHECKING:
    from asc.classifier import SceneClassifier

__all__ = ["InputError", "SceneClassifier"]


def __getattr__(name: str) -> Any:
    """Import SceneClassifier, and torch with it, when first used: commands on ONNX files start without torch."""
    if name == "SceneClassifier":
        from asc.classifier import SceneClassifier

        return SceneClassifier
    raise AttributeError(f"module 'asc' has no attribute {name!r}")
