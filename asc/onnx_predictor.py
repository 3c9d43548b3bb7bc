"""A classifier from its ONNX file: needs onnxruntime, numpy and soundfile, but not torch."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from asc.errors import InputError
from asc.sound import HIGHEST_RATE, LOWEST_RATE

LONGEST = 3600  # seconds of a window: a file that claims more is damaged
FRONTEND = "frontend.onnx"  # beside a model.onnx that takes features


class OnnxPredictor:
    """Waveform to probabilities by ONNX Runtime; see `asc.listen.Predictor` for the attributes.

    Args:
        path: a file of `asc.export` that takes a waveform, or that takes features and has its frontend beside it.
        threads: of ONNX Runtime; None: one per core.

    Raises:
        InputError: the file is missing or not one of `asc.export`, or onnxruntime is not installed.
    """

    def __init__(self, path: Path, threads: int | None = None):
        self.path = path
        net = open_session(path, threads)
        self.sessions = [net]
        source = net.get_inputs()[0]
        if source.name == "features":
            frontend = path.with_name(FRONTEND)
            if not frontend.is_file():
                raise InputError(
                    f"{path} takes features, and its {FRONTEND} is not beside it: copy that file from the run, "
                    "or export by python -m asc.export CHECKPOINT --frontend"
                )
            self.sessions.insert(0, open_session(frontend, threads))
            if self.sessions[0].get_outputs()[0].shape[1:] != source.shape[1:]:
                raise InputError(f"{frontend} belongs to another classifier than {path}: copy both from one run")
        metadata = read_metadata(net, path)
        self.labels: list[str] = metadata["labels"]
        self.sample_rate: int = metadata["sample_rate"]
        self.clip_samples: int = metadata["clip_samples"]
        self.min_samples: int = metadata["min_samples"]
        self.channel: int | str = metadata["channel"]
        shapes = self.sessions[0].get_inputs()[0].shape[1:], net.get_outputs()[0].shape[1:]
        if shapes != ([self.clip_samples], [len(self.labels)]):
            raise InputError(f"{path} is not what it says it was made for: export it again by asc.export")

    def probabilities(self, waves: np.ndarray) -> np.ndarray:
        """Probabilities (batch, n_classes) of waves (batch, clip_samples), mono in [-1, 1], float32.

        Raises:
            InputError: the file does not compute probabilities.
        """
        x = waves
        try:
            for session in self.sessions:
                (x,) = session.run(None, {session.get_inputs()[0].name: x})
        except Exception as error:  # onnxruntime's exceptions share no other base
            raise InputError(f"{self.path} fails where it is computed: export it again") from error
        if x.shape != (len(waves), len(self.labels)) or not np.allclose(x.sum(1), 1, atol=0.01) or x.min() < 0:
            raise InputError(f"{self.path} does not compute probabilities: export it again")
        return x


def read_metadata(net: Any, path: Path) -> dict[str, Any]:
    """The metadata that `asc.export` wrote: labels, sample_rate, clip_samples, min_samples and channel.

    Raises:
        InputError: some of it is missing or impossible.
    """
    try:
        metadata = {name: json.loads(text) for name, text in net.get_modelmeta().custom_metadata_map.items()}
        labels, channel = metadata["labels"], metadata["channel"]
        counts = [metadata[name] for name in ("sample_rate", "clip_samples", "min_samples")]
    except (KeyError, ValueError, RecursionError) as error:
        raise InputError(f"{path} does not say what it was made for: export it again by asc.export") from error
    has_labels = isinstance(labels, list) and all(isinstance(label, str) for label in labels)
    has_counts = all(type(count) is int for count in counts)
    has_channel = channel == "mean" or (type(channel) is int and channel >= 0)
    if has_labels and has_counts and has_channel and len(set(labels)) == len(labels):
        sample_rate, clip_samples, min_samples = counts
        if LOWEST_RATE <= sample_rate <= HIGHEST_RATE and 0 < min_samples <= clip_samples <= LONGEST * sample_rate:
            return metadata
    raise InputError(f"{path} is not what it says it was made for: export it again by asc.export")


def open_session(path: Path, threads: int | None) -> Any:
    """An ONNX Runtime session of the file, on the CPU.

    Raises:
        InputError: the file is missing or no ONNX file, or onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(f"{path} needs ONNX Runtime: pip install onnxruntime") from error
    if not path.is_file():
        raise InputError(f"{path} does not exist or is not a file: check the path")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    if threads:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no other base
        raise InputError(f"{path} is not an ONNX file that this machine can run: export it again") from error
