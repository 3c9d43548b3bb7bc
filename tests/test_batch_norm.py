"""Batch norms' running statistics after training."""

import copy

import pytest
import torch
from classifiers import classifier, observed
from torch import nn

from asc import SceneClassifier
from asc.compress import QAT
from asc.data import SceneData
from asc.training.testing import recalibrate_batch_norm


@pytest.fixture
def data(tiny) -> SceneData:
    data = SceneData(str(tiny), sample_rate=8000, clip_seconds=0.5, num_workers=0, batch_size=24, cache=False)
    data.setup()
    return data


def test_statistics_are_those_of_the_training_clips(data):
    """All 24 in one batch: the first norm's are the features' own, the next ones' those of what it passes on."""
    model = classifier({"dropout_scale": 1})
    recalibrate_batch_norm(model, data)
    (wave, _), = data.loader("train")  # fmt: skip
    x = model.frontend(wave)
    for layer in model.net.blocks[0]:
        if isinstance(layer, nn.BatchNorm2d):
            torch.testing.assert_close(layer.running_mean, x.mean((0, 2, 3)), rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(layer.running_var, x.var((0, 2, 3)), rtol=1e-4, atol=1e-4)
        x = (
            nn.functional.batch_norm(x, None, None, layer.weight, layer.bias, True, 0, layer.eps)
            if isinstance(layer, nn.BatchNorm2d)
            else layer(x)
        )


def test_nothing_else_changes_and_twice_is_once(data):
    model = classifier({"dropout_scale": 1})
    before = copy.deepcopy(model)
    recalibrate_batch_norm(model, data)
    assert not any(layer.training for layer in model.net.modules())
    for (name, new), old in zip(model.net.named_parameters(), before.net.parameters(), strict=True):
        assert torch.equal(new, old), name
    momenta = [
        [layer.momentum for layer in m.net.modules() if isinstance(layer, nn.BatchNorm2d)] for m in (model, before)
    ]
    assert momenta[0] == momenta[1]
    state = copy.deepcopy(model.state_dict())
    recalibrate_batch_norm(model, data)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, state[name])
    assert not torch.equal(state["net.blocks.0.0.running_mean"], before.state_dict()["net.blocks.0.0.running_mean"])


def test_an_8_bit_network_stays_as_it_is(data):
    """Its batch norms, where any are left, take their statistics from fine-tuning, and have no training mode."""
    phase = QAT(fold=False)
    int8 = phase.finish(observed(classifier(), phase))
    (wave, _), = data.loader("train")  # fmt: skip
    with torch.inference_mode():
        before = int8(wave)
        recalibrate_batch_norm(int8, data)
        assert torch.equal(int8(wave), before)
    assert before.std() > 0


def test_best_ckpt_contains_them_and_last_ckpt_those_of_training(trained):
    directory, _ = trained
    states = {}
    for name in ("best", "last"):
        path = directory / f"checkpoints/{name}.ckpt"
        model = SceneClassifier.load_from_checkpoint(path)
        before = copy.deepcopy(model.state_dict())
        data = SceneData(**torch.load(path, weights_only=True)["datamodule_hyper_parameters"])
        data.setup()
        data.cache_features(model.hparams["frontend"], model.frontend, torch.device("cpu"))
        recalibrate_batch_norm(model, data)
        states[name] = before, model.state_dict()
    for key, before in states["best"][0].items():
        torch.testing.assert_close(states["best"][1][key], before)
    mean = "net.blocks.0.0.running_mean"
    assert not torch.allclose(states["last"][0][mean], states["last"][1][mean])
