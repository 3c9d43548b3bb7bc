"""Load a trained classifier from a checkpoint or an ONNX file."""

from collections.abc import Sequence
from pathlib import Path

from asc.listen import Predictor


def load_predictor(path: str | Path, trusted: Sequence[str] = (), threads: int | None = None) -> Predictor:
    """Load a checkpoint of any stage, or an ONNX file, which needs no torch.

    Args:
        path: of a .ckpt, or of a .onnx file that takes a waveform or has its frontend.onnx beside it.
        trusted: modules besides asc and torch.optim whose classes a checkpoint may name.
        threads: of one computation; None: the default of ONNX Runtime or PyTorch. PyTorch's is set for the whole
            process.

    Raises:
        InputError: the file is missing or holds no classifier.
    """
    if Path(path).suffix.lower() == ".onnx":
        from asc.onnx_predictor import OnnxPredictor

        return OnnxPredictor(Path(path), threads)
    import torch

    from asc.classifier import SceneClassifier

    if threads:
        torch.set_num_threads(threads)
    return SceneClassifier.load_from_checkpoint(path, trusted=trusted)
