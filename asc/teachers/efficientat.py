"""MobileNetV3 trained on AudioSet (Schmid, Koutini and Widmer, 2023; github.com/fschmid56/EfficientAT)."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from asc.errors import InputError, one_line
from asc.files import expand_home
from asc.settings import checked
from asc.teachers.teacher import Teacher
from asc.torch_pair import torchaudio

AUDIOSET = Path(__file__).with_name("audioset.txt")  # its 527 classes (Google, CC BY 4.0), in the order of the logits
# of each block: kernel size and stride of its depthwise convolution, and whether its activations are Hardswish
BLOCKS = (
    *((3, 1, False), (3, 2, False), (3, 1, False), (5, 2, False), (5, 1, False), (5, 1, False)),
    *((3, 2, True), (3, 1, True), (3, 1, True), (3, 1, True), (3, 1, True), (3, 1, True)),
    *((5, 2, True), (5, 1, True), (5, 1, True)),
)
EXPECTED = "expected a file of EfficientAT such as mn04_as_mAP_432.pt, from python -m asc.download efficientat_mn04 DIR"


class EfficientAT(Teacher):
    """A published `mnNN_as` network of any width, as a teacher.

    The embedding is the average of the last feature map over time and frequency; the tags are AudioSet's classes.

    Args:
        weights: path of the published file.

    Raises:
        InputError: the file is missing, or not of such a network.
    """

    sample_rate = 32_000
    window: Tensor
    filters: Tensor

    @checked("teacher")
    def __init__(self, weights: str):
        super().__init__()
        self.path = path = expand_home(weights)
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            self.features = feature_layers(state)
            self.classifier = nn.Sequential(
                *(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
                *(linear(state, "classifier.2"), nn.Hardswish(), nn.Dropout(0.2), linear(state, "classifier.5")),
            )
            self.load_state_dict(state)
        except Exception as error:  # torch.load raises arbitrary exceptions on invalid bytes
            reason = getattr(error, "strerror", None) or one_line(error).partition(". ")[0][:200]
            raise InputError(f"invalid teacher.weights={path}: {EXPECTED} ({reason})") from error
        self.tag_names = AUDIOSET.read_text().splitlines()
        self.register_buffer("window", torch.hann_window(800, periodic=False), persistent=False)
        self.register_buffer("filters", mel_filters(), persistent=False)
        self.eval()

    def spectrogram(self, wave: Tensor) -> Tensor:
        """Normalized log mel energies (batch, 1, 128, frames) of wave (batch, samples)."""
        emphasized = wave[:, 1:] - 0.97 * wave[:, :-1]
        power = torch.stft(emphasized, 1024, 320, 800, self.window, return_complex=True).abs().square()
        return ((torch.log(self.filters @ power + 1e-5) + 4.5) / 5).unsqueeze(1)

    def forward(self, wave: Tensor) -> Tensor:
        """Embeddings (batch, width) of wave (batch, samples), mono in [-1, 1] at `sample_rate`."""
        return self.features(self.spectrogram(wave)).mean((2, 3))

    def tags(self, embedding: Tensor) -> Tensor:
        """Logits (batch, 527) of AudioSet's classes, from embeddings (batch, width)."""
        return self.classifier[2:](embedding)


def mel_filters() -> Tensor:
    """Kaldi's mel filterbank (128, 513) from 0 to 15 kHz."""
    kaldi = torchaudio.compliance.kaldi
    filters, _ = kaldi.get_mel_banks(128, 1024, 32_000.0, 0.0, 15_000.0, 100.0, -500.0, 1.0)
    return nn.functional.pad(filters, (0, 1))  # Kaldi leaves out the bin at half the sample rate


def feature_layers(state: dict[str, Tensor]) -> nn.Sequential:
    """The convolutions, with the widths of the tensors in `state`."""

    def channels(name: str) -> int:
        return state[f"features.{name}.0.weight"].shape[0]

    layers: list[nn.Module] = [conv_norm(1, channels("0"), 3, 2, activation=nn.Hardswish)]
    width = channels("0")
    for index, (kernel, stride, is_hard) in enumerate(BLOCKS, 1):
        parts = {name.split(".")[3] for name in state if name.startswith(f"features.{index}.block.")}
        squeeze = state.get(f"features.{index}.block.{len(parts) - 2}.conc_se_layers.0.fc1.weight")
        has_expansion = len(parts) - (squeeze is not None) == 3
        wide, out = channels(f"{index}.block.{int(has_expansion)}"), channels(f"{index}.block.{len(parts) - 1}")
        activation = nn.Hardswish if is_hard else nn.ReLU
        block: list[nn.Module] = [conv_norm(width, wide, 1, activation=activation)] if has_expansion else []
        block.append(conv_norm(wide, wide, kernel, stride, wide, activation))
        if squeeze is not None:
            block.append(SqueezeExcitation(wide, len(squeeze)))
        layers.append(InvertedResidual([*block, conv_norm(wide, out, 1)], stride == 1 and width == out))
        width = out
    layers.append(conv_norm(width, channels(str(len(BLOCKS) + 1)), 1, activation=nn.Hardswish))
    return nn.Sequential(*layers)


def conv_norm(
    n_in: int, n_out: int, kernel: int, stride: int = 1, groups: int = 1, activation: type[nn.Module] | None = None
) -> nn.Sequential:
    """Convolution, batch norm and activation."""
    convolution = nn.Conv2d(n_in, n_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(n_out, eps=1e-3), *([activation()] if activation else []))


class InvertedResidual(nn.Module):
    """The layers of a block, and its input if `has_shortcut` (Howard et al., 2019)."""

    def __init__(self, layers: Sequence[nn.Module], has_shortcut: bool):
        super().__init__()
        self.block, self.has_shortcut = nn.Sequential(*layers), has_shortcut

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x) if self.has_shortcut else self.block(x)


class SqueezeExcitation(nn.Module):
    """Weights each channel by a number in [0, 1] computed from the means of all channels."""

    def __init__(self, channels: int, squeezed: int):
        super().__init__()
        layer = nn.ModuleDict({"fc1": nn.Linear(channels, squeezed), "fc2": nn.Linear(squeezed, channels)})
        self.conc_se_layers = nn.ModuleList([layer])  # named as in the published files

    def forward(self, x: Tensor) -> Tensor:
        layer = self.conc_se_layers[0]
        weights = layer["fc2"](layer["fc1"](x.mean((2, 3))).relu()).sigmoid()  # type: ignore[index]
        return x * weights[:, :, None, None]


def linear(state: dict[str, Tensor], name: str) -> nn.Linear:
    """A dense layer with the shape of its weights in `state`."""
    n_out, n_in = state[f"{name}.weight"].shape
    return nn.Linear(n_in, n_out)
