"""asc: acoustic scene classification small enough for the edge."""

import os
from typing import TYPE_CHECKING, Any

from asc.errors import InputError
from asc.version import __version__

if TYPE_CHECKING:
    from asc.classifier import SceneClassifier

__all__ = ["InputError", "SceneClassifier", "__version__"]

# OpenMP's threads wait for each other after every operation. By default they wait in a loop, which on a busy machine
# takes the core away from the thread they wait for. OpenMP reads this once, when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# ONNX Runtime from 1.29 on otherwise sends Microsoft telemetry about the networks it runs.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def __getattr__(name: str) -> Any:
    """Import SceneClassifier, and torch with it, when first used: commands on ONNX files start without torch."""
    if name == "SceneClassifier":
        from asc.classifier import SceneClassifier

        return SceneClassifier
    raise AttributeError(f"module 'asc' has no attribute {name!r}")
