"""The frontend against second implementations (nnAudio, gammatone, torchaudio, NumPy) and against physics."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from gammatone.fftweight import fft_weights
from gammatone.filters import centre_freqs
from hydra.utils import instantiate
from omegaconf import OmegaConf
from scipy.signal import get_window
from torchaudio.functional import melscale_fbanks

from asc.errors import InputError
from asc.frontend import Spectrogram

pytestmark = pytest.mark.usefixtures("device")

CONF = Path(__file__).parents[1] / "conf" / "frontend"
NAMES = ["gammatone", "log_mel", "stft"]


def build(name: str, sample_rate: int = 44100, **changes) -> Spectrogram:
    """The frontend of conf/frontend/<name>.yaml as Table 1 has it, its level left alone, with changes."""
    settings = {"sample_rate": sample_rate, "normalize": None, **changes}
    return instantiate(OmegaConf.load(CONF / f"{name}.yaml"), **settings)


def tone(hertz: float, sample_rate: int = 44100) -> torch.Tensor:
    return torch.sin(2 * math.pi * hertz * torch.arange(sample_rate) / sample_rate).unsqueeze(0)


@pytest.fixture
def noise() -> torch.Tensor:
    return 0.1 * torch.randn(2, 44100)


@pytest.fixture
def gammatone() -> Spectrogram:
    return build("gammatone")


@pytest.fixture
def linear() -> Spectrogram:
    return build("gammatone", log=False)


# Shapes


@pytest.mark.parametrize("samples", [440999, 441000, 441001])
def test_ten_seconds_give_128_by_428_features(gammatone, samples):
    assert gammatone(torch.zeros(2, samples)).shape == (2, 1, 128, 428)


def test_frames_null_keeps_every_frame(noise):
    # centred frames: 44100 // 1024 + 1 = 44
    assert build("gammatone", frames=None)(noise).shape == (2, 1, 128, 44)


def test_the_class_defaults_are_conf_gammatone_without_normalization(gammatone, noise):
    assert torch.equal(Spectrogram(44100)(0.001 * noise), gammatone(0.001 * noise))


# Second implementations


@pytest.mark.parametrize("name", NAMES)
def test_fft_equals_nnaudios_convolution(name, noise):
    expected = build(name, log=False, standardize=False, trainable_stft=True)(noise)
    ours = build(name, log=False, standardize=False)(noise)
    level = expected.mean((0, 1, 3)).view(-1, 1)
    # nnAudio adds 1e-8 to the square of a magnitude m, which adds 1e-8 / (2 m): a millionth of the level where m is a
    # hundredth of it, the level being about 1. The rest is float32's rounding.
    torch.testing.assert_close(ours / level, expected / level, atol=2e-5, rtol=0)


@pytest.mark.parametrize("sample_rate", [16000, 44100, 48000])
def test_gammatone_weights_equal_the_gammatone_package(sample_rate):
    weights, _ = fft_weights(4096, sample_rate, 128, 1, 10, sample_rate / 2, 2049)  # lowest band first
    expected = torch.as_tensor(weights / 4096).float()
    torch.testing.assert_close(
        build("gammatone", sample_rate).weights, expected, atol=1e-6 * expected.max().item(), rtol=0
    )


def magnitudes(wave: torch.Tensor, n_fft: int, win_length: int, hop_length: int, window: str) -> np.ndarray:
    """Of centred frames, by numpy in double precision: (batch, frames, n_fft // 2 + 1)."""
    padded = np.pad(wave.cpu().double().numpy(), ((0, 0), (n_fft // 2, n_fft // 2)), mode="reflect")
    taper = np.pad(get_window(window, win_length), (n_fft - win_length) // 2)
    return abs(np.fft.rfft(np.lib.stride_tricks.sliding_window_view(padded, n_fft, axis=1)[:, ::hop_length] * taper))


def test_log_mel_equals_numpy_with_torchaudios_filterbank(noise):
    """Slaney's scale without normalization, with which the official baseline calls librosa."""
    filterbank = melscale_fbanks(1025, 0, 24000, 40, 48000, norm=None, mel_scale="slaney").cpu().double().numpy()
    mel = magnitudes(noise, 2048, 1920, 960, "hamming") @ filterbank
    expected = torch.as_tensor(mel + 2.220446049250313e-16).log().transpose(1, 2).unsqueeze(1).float()
    torch.testing.assert_close(build("log_mel", 48000, standardize=False)(noise), expected, atol=1e-4, rtol=0)


def test_stft_equals_numpys(noise):
    expected = torch.as_tensor(magnitudes(noise, 512, 512, 1024, "hann")).transpose(1, 2).unsqueeze(1).float()
    torch.testing.assert_close(build("stft", log=False)(noise), expected, atol=1e-5, rtol=1e-5)


# Physics


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("power", [1, 2])
def test_doubling_the_sound_adds_log_two(name, power, noise):
    frontend = build(name, standardize=False, power=power)
    loud = 10 * noise  # so that eps is nothing beside the smallest energy
    expected = frontend(loud) + power * math.log(2)  # power 2 is energy, squared magnitude
    torch.testing.assert_close(frontend(2 * loud), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_higher_tones_peak_in_higher_bands(name):
    frontend = build(name, standardize=False)
    low, middle, high = (frontend(tone(hertz)).mean(-1).argmax().item() for hertz in (200, 800, 3000))
    assert low < middle < high


@pytest.mark.parametrize("hertz", [200, 800, 3000])
def test_a_tone_peaks_in_the_band_around_it(gammatone, hertz):
    centres = torch.as_tensor(centre_freqs(44100, 128, 10)[::-1].copy())
    peak = gammatone(tone(hertz)).mean(-1).argmax().item()
    assert abs(peak - (centres - hertz).abs().argmin().item()) <= 1


def test_an_impulse_falls_in_the_frame_centred_on_it(linear):
    wave = torch.zeros(1, 44100)
    wave[0, 20 * 1024] = 1
    energy = linear(wave).sum((0, 1, 2))
    assert energy.argmax() == 20
    # the window is 2 hops long: frames 19 and 21 see the impulse at its ends, where it is 0
    assert (energy > 1e-6 * energy[20]).sum() == 1


def test_quiet_sound_stays_far_above_eps(linear):
    spectrum = torch.fft.rfft(torch.randn(1, 44100))
    pink = torch.fft.irfft(spectrum / torch.arange(1, spectrum.shape[-1] + 1).sqrt())
    quiet = 0.001 * pink / pink.square().mean().sqrt()
    assert linear(quiet).min() > 100 * linear.eps


def test_silence_is_finite(gammatone):
    torch.testing.assert_close(gammatone(torch.zeros(1, 44100)), torch.full((1, 1, 128, 44), math.log(1e-10)))


# Standardization


@pytest.fixture
def fitted(noise) -> tuple[Spectrogram, torch.Tensor]:
    """A frontend fitted to four clips of different levels, whose band 7 never changes, and their spectrograms."""
    frontend = build("log_mel")
    batches = [frontend.spectrogram(level * noise) for level in (1, 0.1)]
    for batch in batches:
        batch[:, :, 7] = -36.0
    frontend.fit(iter(batches))
    return frontend, torch.cat(batches)


def test_fitted_bands_have_mean_0_and_deviation_1(fitted):
    frontend, spectrograms = fitted
    bands = frontend.standardize(spectrograms).transpose(0, 2).flatten(1)
    changing = torch.arange(40) != 7
    torch.testing.assert_close(bands.mean(1), torch.zeros(40), atol=1e-4, rtol=0)
    torch.testing.assert_close(bands.std(1, correction=0)[changing], torch.ones(39), atol=1e-4, rtol=0)


def test_a_constant_band_becomes_zero(fitted):
    frontend, spectrograms = fitted
    torch.testing.assert_close(frontend.standardize(spectrograms)[:, :, 7], torch.zeros(4, 1, 46), atol=1e-3, rtol=0)


# Checkpoints, precision, gradients


def test_a_fixed_frontend_stores_its_statistics_alone(gammatone):
    assert not gammatone.state_dict()
    assert set(build("log_mel").state_dict()) == {"mean", "std"}
    assert not list(gammatone.parameters())


def test_trainable_kernels_are_stored_and_learned():
    frontend = build("stft", trainable_stft=True)
    kernels = {name: value.squeeze(1).shape for name, value in frontend.named_parameters()}
    assert list(kernels.values()) == [(257, 512)] * 2  # a cosine and a sine for each of 512 / 2 + 1 frequencies
    assert set(frontend.state_dict()) == set(kernels)


@pytest.mark.parametrize("trainable", [False, True])
def test_features_are_float32_under_autocast(trainable, noise, device):
    frontend = build("stft", trainable_stft=trainable)
    with torch.autocast(device.type, torch.bfloat16):
        features = frontend(noise)
    assert features.dtype == torch.float32
    assert torch.equal(features, frontend(noise))


@pytest.mark.parametrize("amplitude", [0.1, 0.0])
@pytest.mark.parametrize("name", ["gammatone", "stft"])
def test_trainable_kernels_get_finite_gradients(name, amplitude):
    frontend = build(name, trainable_stft=True)
    frontend(amplitude * torch.randn(1, 8192)).sum().backward()
    gradients = [kernel.grad for kernel in frontend.parameters()]
    assert len(gradients) == 2
    for gradient in gradients:
        assert gradient.isfinite().all()
        assert gradient.any() == (amplitude > 0)


# Mistakes


@pytest.mark.parametrize(
    ("name", "shortest"),
    [
        ("gammatone", 2049),  # n_fft / 2 + 1: a reflection of 2048 samples needs one more
        ("stft", 512),  # one window
    ],
)
def test_a_wave_shorter_than_a_window_is_rejected(name, shortest):
    frontend = build(name)
    assert frontend(torch.zeros(1, shortest)).isfinite().all()
    with pytest.raises(InputError, match=f"{shortest - 1} samples"):
        frontend(torch.zeros(1, shortest - 1))


def test_a_window_longer_than_the_fft_is_rejected():
    with pytest.raises(InputError, match="frontend.win_length=4097.*from 1 to 4096"):
        Spectrogram(44100, win_length=4097)


@pytest.mark.parametrize("f_min", [8000, 9000])
def test_a_filterbank_has_a_range(f_min):
    """Else all bands are alike."""
    with pytest.raises(InputError, match=f"f_min={f_min}: expected less than frontend.f_max=8000"):
        Spectrogram(sample_rate=16000, f_min=f_min)


def test_an_unknown_filterbank_is_rejected():
    with pytest.raises(InputError, match="bark"):
        Spectrogram(44100, filterbank="bark")


def test_a_linear_spectrogram_with_other_than_n_fft_bins_is_rejected():
    with pytest.raises(InputError, match="n_bins=128.*257"):
        Spectrogram(44100, filterbank=None, n_fft=512, win_length=512)
