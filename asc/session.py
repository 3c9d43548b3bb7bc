"""Load an ONNX file into ONNX Runtime."""

from pathlib import Path
from typing import Any

from asc.errors import InputError, one_line


def open_session(path: Path, threads: int | None) -> Any:
    """An ONNX Runtime session of the file, on the CPU.

    Raises:
        InputError: the file is missing or not an ONNX file, or onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(f"{path} needs ONNX Runtime: pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    if threads:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no other base
        raise InputError(f"{path} cannot be loaded by ONNX Runtime: {one_line(error)}") from error
