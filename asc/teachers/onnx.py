"""Any ONNX file from a waveform to a vector, as a teacher."""

import numpy as np
import torch
from torch import Tensor

from asc.errors import InputError, one_line
from asc.files import expand_home
from asc.session import open_session
from asc.settings import SampleRate, checked
from asc.teachers.teacher import Teacher


class OnnxTeacher(Teacher):
    """An ONNX file with one input, a waveform (samples,) or (batch, samples), run by ONNX Runtime on the CPU.

    All axes of its output but the last are averaged, such as the time axis of a file with a vector for each second.

    Args:
        weights: path of the file.
        sample_rate: Hz of its waveforms; None: `sample_rate` in the file's metadata.
        output: name of the output that is the vector; None: the first one.

    Raises:
        InputError: the file is missing or has another input, no such output, or no sample rate.
    """

    @checked("teacher")
    def __init__(self, weights: str, sample_rate: SampleRate | None = None, output: str | None = None):
        super().__init__()
        self.path = expand_home(weights)
        self.session = open_session(self.path, threads=None)
        inputs, outputs = self.session.get_inputs(), [found.name for found in self.session.get_outputs()]
        if len(inputs) != 1 or len(inputs[0].shape) not in (1, 2) or inputs[0].type != "tensor(float)":
            shapes = ", ".join(f"{found.name} {found.type} {found.shape}" for found in inputs)
            raise InputError(
                f"invalid teacher.weights={self.path}: expected one input of floats, (samples,) or (batch, samples), "
                f"not {shapes}"
            )
        if output is not None and output not in outputs:
            raise InputError(f"invalid teacher.output={output}: expected {' or '.join(outputs)}")
        self.input, self.output = inputs[0], output or outputs[0]
        stored = self.session.get_modelmeta().custom_metadata_map.get("sample_rate", "")
        if sample_rate is None and not stored.strip("0").isdigit():
            raise InputError(
                f"{self.path} does not store its sample_rate in its metadata: train with teacher.sample_rate=32000"
            )
        self.sample_rate = sample_rate or int(stored)

    def forward(self, wave: Tensor) -> Tensor:
        """Embeddings (batch, width) of wave (batch, samples), mono in [-1, 1] at `sample_rate`.

        Raises:
            InputError: ONNX Runtime reports an error, or the output is not of finite numbers.
        """
        return torch.stack([self.embedding(clip.cpu().numpy()) for clip in wave])

    def embedding(self, clip: np.ndarray) -> Tensor:
        """Embedding (width,) of a clip (samples,)."""
        x = clip if len(self.input.shape) == 1 else clip[None]
        try:
            y = self.session.run([self.output], {self.input.name: x})[0]
        except Exception as error:  # onnxruntime's exceptions share no other base
            raise InputError(f"{self.path} failed in ONNX Runtime: {one_line(error)}") from error
        if not (isinstance(y, np.ndarray) and y.ndim and y.size and y.dtype.kind in "fiu" and np.isfinite(y).all()):
            raise InputError(f"invalid teacher.output={self.output}: expected an array (..., width) of finite numbers")
        return torch.from_numpy(y.reshape(-1, y.shape[-1]).mean(0, dtype=np.float32))

    def digest(self) -> str:
        """The hash of its file and the name of the output."""
        return f"{super().digest()} {self.output}"
