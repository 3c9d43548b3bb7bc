"""Load a trained classifier, whichever file holds it."""

from collections.abc import Sequence
from pathlib import Path

from asc.listen import Predictor


def load_predictor(path: str | Path, trusted: Sequence[str] = (), threads: int | None = None) -> Predictor:
    """Load a checkpoint of any stage, or an ONNX file, without torch.

    Args:
        path: of a .ckpt, or of a .onnx file that takes a waveform or has its frontend.onnx beside it.
        trusted: modules besides asc and torch.optim whose classes a checkpoint may name.
        threads: of one computation; None: as many as ONNX Runtime or PyTorch choose. PyTorch's is a setting of the
            whole process.

    Raises:
        InputError: the file is missing or not one of a classifier.
    """
    if Path(path).suffix.lower() == ".onnx":
        from asc.onnx_predictor import OnnxPredictor

        return OnnxPredictor(Path(path), threads)
    import torch

    from asc.classifier import SceneClassifier

    if threads:
        torch.set_num_threads(threads)
    return SceneClassifier.load_from_checkpoint(path, trusted=trusted)
