"""Sound to spectrogram, on the device of the model: wave (batch, samples)  ->  features (batch, 1, n_bins, frames)."""

from collections.abc import Iterable
from typing import Literal

import torch
from nnAudio.features import STFT
from nnAudio.librosa_functions import get_gammatone
from scipy.signal import get_window
from torch import Tensor, nn
from torchaudio.functional import melscale_fbanks

from asc.errors import InputError, check


class Spectrogram(nn.Module):
    """Magnitude spectrogram, a filterbank over it, the natural logarithm and, where asked, standardized bands.

    The defaults are the report's Table 1. Frozen kernels take the FFT, which gives the numbers of nnAudio's
    convolution in an eighth of its time; trainable ones need the convolution, and then are parameters of the model.
    Nothing else goes into a checkpoint but the statistics of `standardize`.

    Args:
        sample_rate: Hz.
        filterbank: "gammatone" (nnAudio's, Ellis' weights), "mel" (torchaudio's, Slaney's scale, peaks of 1), or None
            for the spectrogram itself.
        n_bins: number of bands, lowest first; without a filterbank there are n_fft // 2 + 1.
        f_min, f_max: Hz, the ends of the filterbank; f_max None is half the sample rate.
        n_fft: samples; a shorter window stands in its middle, between zeros.
        win_length: samples; 2048 at 44.1 kHz is 46 ms.
        hop_length: samples between frames, which are centred on their instant: frames = samples // hop_length + 1.
        window: a name that ``scipy.signal.get_window`` knows.
        power: exponent of the magnitude: 1 magnitude, 2 energy.
        log: take ``log(x + eps)``.
        eps: far below the quietest recording: the filterbank divides by n_fft.
        frames: keep the first so many; a shorter clip keeps what it has; None keeps all.
        standardize: give each band mean 0 and deviation 1 over the training set (see `fit`).
        trainable_stft: learn the Fourier kernels.

    >>> Spectrogram(sample_rate=44100)(torch.zeros(2, 441000)).shape
    torch.Size([2, 1, 128, 428])
    """

    window: Tensor
    weights: Tensor | None
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        sample_rate: int,
        filterbank: Literal["gammatone", "mel"] | None = "gammatone",
        n_bins: int = 128,
        f_min: float = 10.0,
        f_max: float | None = None,
        n_fft: int = 4096,
        win_length: int = 2048,
        hop_length: int = 1024,
        window: str = "hann",
        power: float = 1.0,
        log: bool = True,
        eps: float = 1e-10,
        frames: int | None = 428,
        standardize: bool = False,
        trainable_stft: bool = False,
    ):
        super().__init__()
        f_max = f_max or sample_rate / 2
        check("frontend.sample_rate", sample_rate, int, 1)
        check("frontend.n_fft", n_fft, int, 2)
        check("frontend.win_length", win_length, int, 1, n_fft)
        check("frontend.hop_length", hop_length, int, 1)
        check("frontend.n_bins", n_bins, int, 1)
        check("frontend.f_max", f_max, float, 0, sample_rate / 2)
        check("frontend.f_min", f_min, float, 0, f_max)
        check("frontend.power", power, float, 0)
        check("frontend.eps", eps, float, 1e-45)  # the least that float32 tells from 0
        if frames is not None:
            check("frontend.frames", frames, int, 1)
        self.sample_rate, self.n_fft, self.win_length, self.hop_length = sample_rate, n_fft, win_length, hop_length
        self.power, self.log, self.eps, self.frames = power, log, eps, frames
        self.standardized, self.trainable = standardize, trainable_stft

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
            self.stft.register_buffer("window_mask", self.stft.window_mask, persistent=False)  # of the inverse alone
        else:
            self.register_buffer("window", torch.from_numpy(get_window(window, win_length)).float(), persistent=False)

        weights = None
        if filterbank == "gammatone":
            weights = torch.from_numpy(get_gammatone(sample_rate, n_fft, n_bins, f_min, f_max)).float()
        elif filterbank == "mel":
            weights = melscale_fbanks(n_fft // 2 + 1, f_min, f_max, n_bins, sample_rate, mel_scale="slaney").T
        elif filterbank is not None:
            raise InputError(f"frontend.filterbank={filterbank} is not known: choose gammatone, mel or null")
        elif n_bins != n_fft // 2 + 1:
            raise InputError(f"frontend.n_bins={n_bins} needs a filterbank: without one give {n_fft // 2 + 1}")
        self.register_buffer("weights", weights, persistent=False)  # (n_bins, n_fft // 2 + 1)

        if standardize:
            self.register_buffer("mean", torch.zeros(n_bins, 1))
            self.register_buffer("std", torch.ones(n_bins, 1))

    @property
    def shortest(self) -> int:
        """Samples of the shortest sound that there are features of: a window, and what the ends reflect."""
        return max(self.win_length, self.n_fft // 2 + 1)

    def forward(self, wave: Tensor) -> Tensor:
        """Features (batch, 1, n_bins, frames), float32 also under autocast, of wave (batch, samples).

        Raises:
            InputError: the sound is shorter than one window.
        """
        return self.standardize(self.spectrogram(wave))

    def spectrogram(self, wave: Tensor) -> Tensor:
        """`forward` without `standardize`: what depends on the sound and the settings alone and may be kept."""
        if wave.ndim != 2 or not wave.is_floating_point():
            raise InputError(f"a wave is (batch, samples) in floating point, not {tuple(wave.shape)} in {wave.dtype}")
        if wave.shape[-1] < self.shortest:
            raise InputError(
                f"the sound has {wave.shape[-1]} samples at {self.sample_rate} Hz, less than one window: "
                f"give at least {self.shortest} ({self.shortest / self.sample_rate:.3f} s)"
            )
        with torch.autocast(wave.device.type, enabled=False):
            x = self.magnitude(wave.float())[..., : self.frames] ** self.power
            if self.weights is not None:
                x = self.weights @ x
            if self.log:
                x = torch.log(x + self.eps)
            return x.unsqueeze(1)  # (batch, 1, n_bins, frames): Conv2d wants a channel axis

    def magnitude(self, wave: Tensor) -> Tensor:
        """|STFT|: (batch, samples) -> (batch, n_fft // 2 + 1, frames)."""
        if self.trainable:
            return self.stft(wave)
        return torch.stft(
            wave, self.n_fft, self.hop_length, self.win_length, self.window, pad_mode="reflect", return_complex=True
        ).abs()

    def standardize(self, features: Tensor) -> Tensor:
        """Each band less its mean and over its deviation, or as it is where the frontend does not standardize."""
        return (features - self.mean) / self.std if self.standardized else features

    def fit(self, batches: Iterable[Tensor]) -> None:
        """Set the mean and deviation of each band from batches of `spectrogram`'s results."""
        count, total, squares = 0, torch.zeros(()), torch.zeros(())
        for spectrogram in batches:
            bands = spectrogram.cpu().double().transpose(0, 2).flatten(1)  # (n_bins, batch * frames)
            count += bands.shape[1]
            total, squares = total + bands.sum(1), squares + bands.square().sum(1)
        mean = total / count
        std = (squares / count - mean.square()).clamp_min(0).sqrt()
        self.mean.copy_(mean.unsqueeze(1))
        self.std.copy_(std.clamp_min(1e-5).unsqueeze(1))  # a band that never changes must not divide by zero
