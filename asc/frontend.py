"""From waveform to spectrogram, on the model's device: (batch, samples)  ->  (batch, 1, n_bins, frames)."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Annotated, Literal

import numpy as np
import torch
from nnAudio.features import STFT
from nnAudio.librosa_functions import get_gammatone
from pydantic import Field, PositiveFloat, PositiveInt
from scipy.signal import get_window
from torch import Tensor, nn
from torch.nn import functional as F

from asc.errors import InputError, check_number
from asc.parallel import in_parallel
from asc.settings import SampleRate, checked
from asc.torch_pair import torchaudio

MAX_BANDS = 1024  # maximum bands of a filterbank
CACHED_FRAMES = 64  # whose spectrum stays in the cache of a processor
MIN_PEAK = 1e-30  # far below magnitude and energy of any recording but digital silence


class Frontend(nn.Module, ABC):
    """The interface of a SceneClassifier's frontend.

    To add a frontend, write a subclass in any importable module that defines `spectrogram` and `min_samples` and sets
    `sample_rate` in its constructor, and a file:

        # conf/frontend/mine.yaml
        _target_: my_frontends.Mine
        sample_rate: ${sample_rate}

    Attributes:
        sample_rate: Hz of the waveforms.
        log: whether features are logarithms, which may be cached in float16.
        power: exponent of the magnitude: 1 magnitude, 2 energy.
        standardized: whether `standardize` needs `fit` before training.
        trainable: whether it has trainable parameters, so that features cannot be cached.
    """

    sample_rate: int
    log = False
    power = 1.0
    standardized = False
    trainable = False

    @property
    @abstractmethod
    def min_samples(self) -> int:
        """Length of the shortest valid waveform, samples."""

    @abstractmethod
    def spectrogram(self, wave: Tensor) -> Tensor:
        """Features (batch, 1, n_bins, frames) of wave (batch, samples), before `standardize`; these are cached."""

    def standardize(self, features: Tensor) -> Tensor:
        """Applied to the output of `spectrogram`, cached or not; the identity by default."""
        return features

    def fit(self, batches: Iterable[Tensor]) -> None:  # noqa: B027 (most frontends need none)
        """Compute the statistics for `standardize` from batches of `spectrogram`'s output."""

    def forward(self, wave: Tensor) -> Tensor:
        """Features (batch, 1, n_bins, frames), float32 also under autocast, of wave (batch, samples)."""
        return self.standardize(self.spectrogram(wave))


class Spectrogram(Frontend):
    """Magnitude spectrogram, filterbank, natural logarithm and optional normalization and standardization.

    The defaults are the report's Table 1. Fixed kernels use the FFT, which gives the same values as nnAudio's
    convolution eight times as fast. Trainable kernels need the convolution and are parameters of the model. Otherwise a
    checkpoint stores only the statistics of `standardize`.

    Args:
        sample_rate: Hz.
        filterbank: "gammatone" (nnAudio's, Ellis' weights), "mel" (torchaudio's, Slaney scale, peak gain 1), or None
            for the linear spectrogram.
        n_bins: number of bands, lowest first; without a filterbank n_fft // 2 + 1.
        f_min, f_max: Hz, range of the filterbank; f_max None: half the sample rate.
        n_fft: samples; a shorter window is centred and zero-padded.
        win_length: samples; 2048 at 44.1 kHz is 46 ms.
        hop_length: samples between frames, which are centred as in librosa: frames = samples // hop_length + 1.
        window: a window name of ``scipy.signal.get_window``.
        power: exponent of the magnitude: 1 magnitude, 2 energy.
        log: take ``log(x + eps)``.
        eps: must be far below the quietest recording, since the gammatone filterbank divides by n_fft. `normalize`
            does not use it.
        normalize: make log features independent of the recording level by subtracting the log of the clip's root mean
            square ("level"), the mean over the clip ("clip") or the mean of each band ("band"); None: no normalization.
        dynamic_range: floor of `normalize` in dB below the clip's peak. A floor relative to the peak treats quiet and
            loud recordings alike, and keeps digital silence from dominating the mean.
        frames: maximum number of frames, counted from the start; None: all.
        standardize: give each band mean 0 and standard deviation 1 over the training set (see `fit`).
        trainable_stft: train the Fourier kernels.

    >>> Spectrogram(sample_rate=44100)(torch.zeros(2, 441000)).shape
    torch.Size([2, 1, 128, 428])
    """

    window: Tensor
    weights: Tensor | None
    mean: Tensor
    std: Tensor

    @checked("frontend")
    def __init__(
        self,
        sample_rate: SampleRate,
        filterbank: Literal["gammatone", "mel"] | None = "gammatone",
        n_bins: PositiveInt = 128,
        f_min: Annotated[float, Field(ge=0)] = 10.0,
        f_max: PositiveFloat | None = None,
        n_fft: Annotated[int, Field(ge=2, le=32768)] = 4096,
        win_length: PositiveInt = 2048,
        hop_length: PositiveInt = 1024,
        window: str = "hann",
        power: Annotated[float, Field(gt=0, le=10)] = 1.0,
        log: bool = True,
        eps: Annotated[float, Field(ge=1e-45, le=1)] = 1e-10,  # 1e-45: the smallest positive float32
        normalize: Literal["level", "clip", "band"] | None = None,
        dynamic_range: Annotated[float, Field(ge=1, le=200)] = 60.0,
        frames: PositiveInt | None = 428,
        standardize: bool = False,
        trainable_stft: bool = False,
    ):
        super().__init__()
        f_max = f_max or sample_rate / 2
        check_number("frontend.win_length", win_length, int, 1, n_fft)
        if filterbank:
            check_number("frontend.n_bins", n_bins, int, 1, min(n_fft // 2 + 1, MAX_BANDS))
        elif n_bins != n_fft // 2 + 1:
            raise InputError(
                f"invalid frontend.n_bins={n_bins}: expected n_fft // 2 + 1 = {n_fft // 2 + 1} without a filterbank"
            )
        check_number("frontend.f_max", f_max, float, 0, sample_rate / 2)
        if f_min >= f_max:
            raise InputError(f"invalid frontend.f_min={f_min:g}: expected less than frontend.f_max={f_max:g}")
        window_values = window_function(window, win_length)
        self.sample_rate, self.n_fft, self.win_length, self.hop_length = sample_rate, n_fft, win_length, hop_length
        self.power, self.log, self.eps, self.frames = power, log, eps, frames
        self.filterbank, self.f_range = filterbank, (f_min, f_max)
        self.standardized, self.trainable = standardize, trainable_stft
        self.normalize, self.floor = normalize, 10 ** (-power * dynamic_range / 20)  # the floor: a fraction of the peak

        if trainable_stft:
            self.stft = STFT(
                n_fft=n_fft,
                win_length=win_length,
                hop_length=hop_length,
                window=window,
                sr=sample_rate,
                trainable=True,
                output_format="Magnitude",
                verbose=False,
            )
            self.stft.register_buffer("window_mask", self.stft.window_mask, persistent=False)  # for the inverse only
        else:
            self.register_buffer("window", torch.as_tensor(window_values, dtype=torch.float32), persistent=False)
        weights = filterbank_weights(filterbank, sample_rate, n_fft, n_bins, f_min, f_max)
        self.register_buffer("weights", weights, persistent=False)
        if standardize:
            self.register_buffer("mean", torch.zeros(n_bins, 1))
            self.register_buffer("std", torch.ones(n_bins, 1))

    @property
    def min_samples(self) -> int:
        """Length of one window, or the minimum for reflection padding if that is larger."""
        return max(self.win_length, self.n_fft // 2 + 1)

    def spectrogram(self, wave: Tensor) -> Tensor:
        """Features (batch, 1, n_bins, frames) of wave (batch, samples), not yet standardized.

        Raises:
            InputError: the waveform is shorter than one window.
        """
        if wave.ndim != 2 or not wave.is_floating_point():
            raise InputError(
                f"invalid waveform of {wave.dtype} {tuple(wave.shape)}: expected (batch, samples) in floating point"
            )
        if wave.shape[-1] < self.min_samples:
            raise InputError(
                f"the waveform has {wave.shape[-1]} samples at {self.sample_rate} Hz, less than one window: "
                f"give at least {self.min_samples} ({self.min_samples / self.sample_rate:.3f} s)"
            )
        with torch.autocast(wave.device.type, enabled=False):
            x = self.bands(wave.float())
            if self.normalize:
                x = self.normalized_log(x) if self.log else self.normalized_log(x).exp()
            elif self.log:
                x = torch.log(x + self.eps)
            return x.unsqueeze(1)  # (batch, 1, n_bins, frames): Conv2d needs a channel axis

    def normalized_log(self, x: Tensor) -> Tensor:
        """Normalized logarithms of x (batch, n_bins, frames): the same for x and c * x, c > 0."""
        peak = x.amax((1, 2), keepdim=True).clamp_min(MIN_PEAK)  # 0 in digital silence
        x = (x / peak).clamp_min(self.floor)
        log = torch.log(x)
        if self.normalize == "level":
            return log - x.square().mean((1, 2), keepdim=True).log() / 2
        return log - log.mean((1, 2) if self.normalize == "clip" else 2, keepdim=True)

    def bands(self, wave: Tensor) -> Tensor:
        """|STFT| ** power and the filterbank: (batch, samples) -> (batch, n_bins, frames)."""
        if self.trainable:
            x = self.stft(wave)[..., : self.frames] ** self.power
            return x if self.weights is None else self.weights @ x
        half, left = self.n_fft // 2, (self.n_fft - self.win_length) // 2
        count = 1 + (wave.shape[-1] + 2 * half - self.n_fft) // self.hop_length
        padded = F.pad(wave.unsqueeze(1), (half, half), mode="reflect").squeeze(1)[:, left:]
        frames = padded.unfold(1, self.win_length, self.hop_length)[:, : min(count, self.frames or count)]
        step = max(1, CACHED_FRAMES // len(wave)) if wave.device.type == "cpu" else count
        return torch.cat(in_parallel(self.filtered, frames.split(step, 1)), 1).mT.contiguous()

    def filtered(self, frames: Tensor) -> Tensor:
        """(batch, frames, win_length) -> (batch, frames, n_bins)."""
        # the window stands at the beginning of the transform: a delay leaves the magnitude as it is
        spectrum = torch.fft.rfft(frames * self.window, self.n_fft)
        x = (spectrum.real.square() + spectrum.imag.square()) ** (self.power / 2)  # abs() is half as fast
        return x if self.weights is None else x @ self.weights.T

    def standardize(self, features: Tensor) -> Tensor:
        """Zero mean and unit variance for each band if `standardized`, otherwise the identity."""
        return (features - self.mean) / self.std if self.standardized else features

    def fit(self, batches: Iterable[Tensor]) -> None:
        """Compute the mean and standard deviation of each band from batches of `spectrogram`'s output."""
        count, (total, squares) = 0, torch.zeros(2, device="cpu")
        for spectrogram in batches:
            bands = spectrogram.cpu().double().transpose(0, 2).flatten(1)  # (n_bins, batch * frames)
            count += bands.shape[1]
            total, squares = total + bands.sum(1), squares + bands.square().sum(1)
        mean = total / count
        std = (squares / count - mean.square()).clamp_min(0).sqrt()
        self.mean.copy_(mean.unsqueeze(1))
        self.std.copy_(std.clamp_min(1e-5).unsqueeze(1))  # no division by zero in a constant band


def filterbank_weights(
    filterbank: str | None, sample_rate: int, n_fft: int, n_bins: int, f_min: float, f_max: float
) -> Tensor | None:
    """Weights (n_bins, n_fft // 2 + 1) of a filterbank for magnitudes or energies; None without one."""
    if filterbank == "gammatone":
        return torch.as_tensor(get_gammatone(sample_rate, n_fft, n_bins, f_min, f_max), dtype=torch.float32)
    if filterbank == "mel":
        n_freqs = n_fft // 2 + 1
        return torchaudio.functional.melscale_fbanks(n_freqs, f_min, f_max, n_bins, sample_rate, mel_scale="slaney").T
    return None


def window_function(window: str, samples: int) -> np.ndarray:
    """The window function (samples,) of this name.

    Raises:
        InputError: SciPy has no such window.
    """
    try:
        return get_window(window, samples)
    except (ValueError, TypeError) as error:
        raise InputError(
            f"invalid frontend.window={window}: expected a window of scipy.signal.get_window, such as hann"
        ) from error
