"""SceneClassifier: its loss, its checkpoints, and what it says of a file."""

import math
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import soundfile
import torch
import torch.nn.functional as F
from classifiers import fit, lived_in, save
from command import call
from tiny import RATE, write_list
from torch import nn

from asc import InputError, SceneClassifier
from asc.compress import QAT
from asc.data import SceneData
from asc.frontend import Spectrogram

LABELS = ["indoor", "outdoor", "transportation"]


def classifier(**changes) -> SceneClassifier:
    settings = {
        "frontend": {"_target_": "asc.frontend.Spectrogram", "sample_rate": RATE},
        "net": {"_target_": "asc.nets.PhamCNN"},
        "optimizer": {"_target_": "torch.optim.Adam", "lr": 1e-3, "weight_decay": 1e-4},
        "labels": LABELS,
        "clip_samples": 2 * RATE,
    }
    torch.manual_seed(0)
    return SceneClassifier(**{**settings, **changes})


def test_the_loss_of_hard_targets_is_cross_entropy():
    """KL(y || p) = -H(y) + cross-entropy, and a hard target has no entropy."""
    model = classifier().eval()
    model.log = lambda *args, **kwargs: None  # outside a trainer there is nowhere to log to
    x, target = torch.randn(4, 1, 128, 32), torch.tensor([0, 2, 1, 0])
    loss = model.training_step([x, target], 0)
    torch.testing.assert_close(loss, F.cross_entropy(model.net(x), target))


class Constant(nn.Linear):
    """A network that cannot tell clips apart: the best that it can predict is how frequent the classes are."""

    def __init__(self, n_classes: int):
        super().__init__(1, n_classes)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return super().forward(torch.zeros(len(features), 1))


@pytest.mark.parametrize(("adjustment", "expected"), [(0, (4, 1, 1)), (0.5, (2, 1, 1)), (1, (1, 1, 1))])
def test_logit_adjustment_compensates_for_frequent_classes(adjustment, expected, tiny, tmp_path):
    """Of 8, 2 and 2 clips: predictions are in the ratio of these numbers to the power 1 - tau."""
    names = sorted(path.name for path in (tiny / "audio").iterdir())
    kept = [[f"audio/{name}\t{label}" for name in names if name.startswith(label)] for label in LABELS]
    rows = [row for rows, count in zip(kept, (8, 2, 2), strict=True) for row in rows[:count]]
    shutil.copytree(tiny, root := tmp_path / "unbalanced")
    write_list(root / "evaluation_setup/fold1_train.csv", "filename\tscene_label", rows)
    data = SceneData(str(root), sample_rate=RATE, num_workers=0, batch_size=12, cache=False)
    data.setup()
    optimizer = {"_target_": "torch.optim.Adam", "lr": 0.1}
    model = classifier(net={"_target_": f"{__name__}.Constant"}, optimizer=optimizer, logit_adjustment=adjustment)
    pl.Trainer(max_epochs=100, logger=False, barebones=True, accelerator="cpu").fit(model, data)
    predicted = model.net(torch.zeros(1)).softmax(-1)[0]
    torch.testing.assert_close(predicted, torch.tensor(expected) / sum(expected), rtol=0, atol=0.01)


def test_logit_adjustment_needs_a_dataset_whose_classes_it_can_count():
    with pytest.raises(InputError, match="logit_adjustment"):
        fit(classifier(logit_adjustment=1))


def test_weight_decay_is_the_reports_l2():
    """One step of Adam(weight_decay=l) on f equals one step of Adam on f + (l / 2) |theta|^2."""
    theta = torch.tensor([3.0, -2.0])
    steps = []
    for decay, added in ((0.1, 0.0), (0.0, 0.1)):
        parameter = theta.clone().requires_grad_()
        optimizer = torch.optim.Adam([parameter], lr=0.01, weight_decay=decay)
        for _ in range(3):
            optimizer.zero_grad()
            (parameter.sin().sum() + added / 2 * parameter.square().sum()).backward()
            optimizer.step()
        steps.append(parameter.detach())
    torch.testing.assert_close(*steps)
    optimizer = classifier().configure_optimizers()
    assert optimizer.param_groups[0]["weight_decay"] == 1e-4
    assert sum(p.numel() for p in optimizer.param_groups[0]["params"]) == 62_341  # all of theta, batch norm too


@pytest.mark.usefixtures("device")
def test_forward_is_frontend_then_net():
    model = classifier().eval()
    wave = torch.randn(2, 2 * RATE) * 0.1
    torch.testing.assert_close(model(wave), model.net(model.frontend(wave)))


@pytest.mark.usefixtures("device")
def test_folded_for_inference_it_gives_the_same_logits_with_fewer_layers():
    model = classifier()
    lived_in(model.net)
    wave = 0.1 * torch.randn(4, 2 * RATE)
    fast = model.folded()
    with torch.inference_mode():
        torch.testing.assert_close(fast(wave), model(wave), rtol=1e-4, atol=1e-4)
    assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in fast.modules())
    assert any(isinstance(layer, torch.nn.BatchNorm2d) for layer in model.modules()), "the model itself must stay"


@pytest.fixture(scope="module")
def checkpoint(trained) -> Path:
    return trained[0] / "checkpoints/best.ckpt"


@pytest.fixture(scope="module")
def model(checkpoint) -> SceneClassifier:
    return SceneClassifier.load_from_checkpoint(checkpoint)


def test_a_checkpoint_gives_the_same_logits_bit_for_bit(tmp_path):
    model = classifier()
    lived_in(model.net)
    wave = torch.randn(2, 2 * RATE) * 0.1
    loaded = SceneClassifier.load_from_checkpoint(save(model, tmp_path / "any.ckpt"))
    assert not loaded.training
    with torch.inference_mode():
        assert torch.equal(loaded(wave), model.eval()(wave))
    assert (loaded.labels, loaded.stage, loaded.sample_rate) == (LABELS, "float", RATE)


def test_a_checkpoint_stores_no_kernels(checkpoint):
    """Frontend kernels alone would be 68 MB; network and Adam's two moments are 3 x 0.25 MB."""
    assert checkpoint.stat().st_size < 900_000
    assert not [key for key in torch.load(checkpoint, weights_only=True)["state_dict"] if key.startswith("frontend")]


def test_trained_kernels_are_in_the_checkpoint(job, tmp_path):
    size = {"n_fft": 512, "win_length": 512}
    words = [f"frontend.{name}={value}" for name, value in size.items()]
    words += ["frontend.trainable_stft=true", "data.cache=false", "trainer.max_epochs=1"]
    assert call(*job, *words, f"hydra.run.dir={tmp_path}") is None
    kernels = SceneClassifier.load_from_checkpoint(tmp_path / "checkpoints/best.ckpt").frontend.stft.wsin
    fresh = Spectrogram(RATE, trainable_stft=True, **size).stft.wsin
    assert kernels.shape == fresh.shape
    assert not torch.equal(kernels, fresh)


def test_band_statistics_of_the_training_clips_are_in_the_checkpoint(job, tmp_path):
    bands = ["filterbank=mel", "n_bins=40", "f_min=0", "standardize=true"]
    words = [*(f"frontend.{word}" for word in bands), "data.cache=false", "trainer.max_epochs=1"]
    assert call(*job, *words, f"hydra.run.dir={tmp_path}") is None
    checkpoint = tmp_path / "checkpoints/best.ckpt"
    model = SceneClassifier.load_from_checkpoint(checkpoint)
    data = SceneData(**torch.load(checkpoint, weights_only=True)["datamodule_hyper_parameters"])
    data.setup()
    waves = torch.cat([wave for wave, _ in data.loader("train")])
    bands = model.frontend(waves).transpose(0, 2).flatten(1)  # (n_bins, all frames)
    torch.testing.assert_close(bands.mean(1), torch.zeros(40), atol=1e-4, rtol=0)
    torch.testing.assert_close(bands.std(1), torch.ones(40), atol=1e-3, rtol=0)


def sound(path: Path, seconds: float, rate: int = RATE, channels: int = 1) -> Path:
    time = np.arange(round(seconds * rate)) / rate
    wave = 0.1 * np.sin(2 * np.pi * 440 * time) * (1 + 0.5 * np.sin(2 * np.pi * 3 * time))
    soundfile.write(path, np.stack([wave] * channels, 1), rate, subtype="FLOAT")
    return path


def test_classify_is_softmax_of_forward(model, tmp_path):
    file = sound(tmp_path / "a.wav", 2)
    wave = torch.from_numpy(soundfile.read(file, dtype="float32")[0])
    expected = model(wave.unsqueeze(0)).softmax(-1)[0].tolist()
    assert list(model.classify(file).values()) == pytest.approx(expected, abs=1e-6)


def test_classify_resamples_a_file_of_another_rate(model, tmp_path):
    low, high = sound(tmp_path / "l.wav", 2), sound(tmp_path / "h.wav", 2, rate=48000)
    assert list(model.classify(high).values()) == pytest.approx(list(model.classify(low).values()), abs=0.05)


def test_a_long_file_is_the_mean_of_its_clips(model, tmp_path):
    first, second = sound(tmp_path / "1.wav", 2), tmp_path / "2.wav"
    soundfile.write(second, np.random.default_rng(0).normal(0, 0.1, 2 * RATE), RATE, subtype="FLOAT")
    both = np.concatenate([soundfile.read(file, dtype="float32")[0] for file in (first, second)])
    soundfile.write(tmp_path / "both.wav", both, RATE, subtype="FLOAT")
    answers = [list(model.classify(file).values()) for file in (first, second)]
    assert list(model.classify(tmp_path / "both.wav").values()) == pytest.approx(np.mean(answers, 0), abs=1e-6)


def test_a_short_file_is_repeated(model, tmp_path):
    wave = np.random.default_rng(0).normal(0, 0.1, RATE)
    soundfile.write(tmp_path / "1s.wav", wave, RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "2s.wav", np.tile(wave, 2), RATE, subtype="FLOAT")
    assert model.classify(tmp_path / "1s.wav") == model.classify(tmp_path / "2s.wav")


def test_classify_in_training_mode_changes_no_state(model, tmp_path):
    file = sound(tmp_path / "a.wav", 2)
    expected, before = model.classify(file), {k: v.clone() for k, v in model.state_dict().items()}
    model.train()
    assert model.classify(file) == expected
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    model.eval()


def test_an_invalid_wave_is_rejected(model):
    good = torch.zeros(1, 2 * RATE)
    quantized = torch.quantize_per_tensor(good, 0.1, 0, torch.qint8)
    for wave in (good[0], good[None], good.short(), good.to_sparse(), quantized, good[:0], None, good.numpy()):
        with pytest.raises(InputError, match="wave"):
            model(wave)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_wave_that_is_not_finite_is_rejected_at_every_stage(model, value):
    wave = torch.zeros(2, 2 * RATE)
    wave[1, 100] = value
    phase = QAT()
    fake = phase.begin(model)
    for stage in (model, fake, phase.finish(fake)):
        with pytest.raises(InputError, match="NaN or infinity"):
            stage(wave)


def test_an_8_bit_network_blames_the_length_of_short_clips_alone(monkeypatch):
    """Any other error is a fault of the program, and stays what it is."""
    model = classifier()
    phase = QAT()
    int8 = phase.finish(phase.begin(model))
    with pytest.raises(InputError, match="use longer clips") as caught:
        int8(torch.zeros(1, int8.min_samples))
    assert isinstance(caught.value.__cause__, RuntimeError)
    monkeypatch.setattr(type(int8.net), "forward", lambda *_: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError, match="size"):
        int8(torch.zeros(1, int8.clip_samples))


def test_only_a_path_is_classified(model):
    for path in (None, 5, np.zeros(RATE)):
        with pytest.raises(InputError, match="expected the path"):
            model.classify(path)
        with pytest.raises(InputError, match="expected the path"):
            SceneClassifier.load_from_checkpoint(path)


def test_trainer_predict_gives_the_probabilities(model, tiny):
    data = SceneData(str(tiny), sample_rate=RATE, num_workers=0, batch_size=5, cache=False)
    data.setup()
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    found = torch.cat(trainer.predict(model, data.test_dataloader()))
    waves = torch.cat([wave for wave, _ in data.test_dataloader()])
    with torch.inference_mode():
        torch.testing.assert_close(found, model(waves).softmax(-1))


def test_overlapping_windows_are_averaged(tmp_path):
    """2.2 windows of 2 s, every second: from 0, 1, 2 and, aligned with the end, 2.4 s."""
    model = classifier().eval()
    wave = 0.1 * torch.randn(round(4.4 * RATE))
    soundfile.write(tmp_path / "long.wav", wave.numpy(), RATE, subtype="FLOAT")
    with torch.inference_mode():
        windows = torch.stack([wave[start : start + 2 * RATE] for start in (0, RATE, 2 * RATE, round(2.4 * RATE))])
        expected = model(windows).softmax(1).mean(0)
    assert list(model.classify(tmp_path / "long.wav", hop=1).values()) == pytest.approx(expected.tolist(), abs=1e-5)
    with pytest.raises(InputError, match="invalid hop=0"):
        model.classify(tmp_path / "long.wav", hop=0)


def test_several_threads_may_classify_at_once(model, tmp_path):
    files = [sound(tmp_path / f"{seconds}.wav", seconds) for seconds in (1, 2, 3, 4)]
    alone = [model.classify(file) for file in files]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(model.classify, files * 5)) == alone * 5
    assert not model.training
