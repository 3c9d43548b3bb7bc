"""ONNX files of a classifier: python -m asc.export --help.

The float network is written with its batch norms folded, the 8-bit one in QDQ form: integers for weights and biases,
and a QuantizeLinear, DequantizeLinear pair around each layer, which ONNX Runtime and others turn into integer kernels.
"""

from asc.export.file import export, export_frontend, export_or_checkpoint

__all__ = ["export", "export_frontend", "export_or_checkpoint"]
