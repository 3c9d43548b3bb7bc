"""ONNX files of a classifier: python -m asc.export --help.

The float network is written with its batch norms folded, the 8-bit one in QDQ form: integers for weights and biases,
and a QuantizeLinear, DequantizeLinear pair around each layer, which ONNX Runtime and others turn into integer kernels.
"""

from typing import Any

__all__ = ["export", "export_frontend", "export_or_checkpoint"]


def __getattr__(name: str) -> Any:
    """Import a function, and torch with it, when first used: the command line is read without torch."""
    if name in __all__:
        from asc.export import file

        return getattr(file, name)
    raise AttributeError(f"module 'asc.export' has no attribute {name!r}")
