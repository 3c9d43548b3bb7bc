"""Level invariance: what the frontend's `normalize` promises, and its ONNX file."""

import numpy as np
import onnxruntime
import pytest
import torch
from classifiers import classifier

from asc.export import export
from asc.frontend import Spectrogram

pytestmark = pytest.mark.usefixtures("device")

KINDS = ["level", "clip", "band"]


@pytest.fixture
def wave() -> torch.Tensor:
    """Half a second of noise that fades, some of it silent."""
    noise = torch.randn(2, 4000) * torch.linspace(1e-3, 0.1, 4000)
    noise[:, :500] = 0
    return noise


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gain", [-40, -20, 20, 40])  # dB
def test_a_gain_changes_no_probability(kind, gain, wave):
    model = classifier(frontend={"normalize": kind})
    with torch.inference_mode():
        as_it_is, louder = (model(x).softmax(-1) for x in (wave, wave * 10 ** (gain / 20)))
    assert (louder - as_it_is).abs().max() < 1e-3
    assert (as_it_is[0] - as_it_is[1]).abs().max() > 1e-6  # it hears a difference where there is one


@pytest.mark.parametrize(("kind", "axes"), [("clip", (1, 2, 3)), ("band", 3)])
def test_normalized_features_have_mean_zero(kind, axes, wave):
    features = Spectrogram(8000, n_fft=512, win_length=512, hop_length=128, n_bins=32, f_min=50, normalize=kind)(wave)
    torch.testing.assert_close(features.mean(axes), torch.zeros(features.mean(axes).shape), atol=1e-5, rtol=0)


def test_dynamic_range_sets_the_floor_below_the_peak(wave):
    """Silence beside sound lies so many dB below the loudest value: 40 dB are a factor of 100."""
    settings = {"n_fft": 512, "win_length": 512, "hop_length": 128, "n_bins": 32, "f_min": 50}
    half = wave.clone()
    half[:, :2000] = 0
    features = Spectrogram(8000, normalize="clip", dynamic_range=40, **settings)(half)
    spread = (features.amax((1, 2, 3)) - features.amin((1, 2, 3))).tolist()
    assert spread == pytest.approx([np.log(100)] * 2, abs=1e-4)


def test_level_normalization_gives_root_mean_square_one(wave):
    settings = {"n_fft": 512, "win_length": 512, "hop_length": 128, "n_bins": 32, "f_min": 50}
    features = Spectrogram(8000, normalize="level", **settings)(wave)
    torch.testing.assert_close(features.exp().square().mean((1, 2, 3)), torch.ones(2))


@pytest.mark.parametrize("kind", KINDS)
def test_digital_silence_gives_zeros(kind):
    assert Spectrogram(44100, normalize=kind)(torch.zeros(1, 44100)).abs().max() < 1e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("power", [1, 2])
def test_normalization_in_onnx_equals_torch(kind, power, wave, tmp_path):
    model = classifier(frontend={"normalize": kind, "power": power})
    path = export(model, tmp_path / "model.onnx", with_frontend=True)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for sound in (wave, 1e-3 * wave, torch.zeros_like(wave)):
        with torch.inference_mode():
            expected = model(sound).softmax(-1).cpu().numpy()
        np.testing.assert_allclose(session.run(None, {"wave": sound.cpu().numpy()})[0], expected, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_normalized_magnitudes_are_the_exponentials_of_normalized_logs(kind, wave, tmp_path):
    settings = {"n_fft": 512, "win_length": 512, "hop_length": 128, "n_bins": 32, "f_min": 50, "normalize": kind}
    plain = Spectrogram(8000, log=False, **settings)(wave)
    torch.testing.assert_close(plain.log(), Spectrogram(8000, **settings)(wave), atol=1e-4, rtol=1e-4)
    model = classifier(frontend={"normalize": kind, "log": False})
    session = onnxruntime.InferenceSession(str(export(model, tmp_path / "model.onnx", with_frontend=True)))
    with torch.inference_mode():
        expected = model(wave).softmax(-1).cpu().numpy()
    np.testing.assert_allclose(session.run(None, {"wave": wave.cpu().numpy()})[0], expected, atol=1e-4)
