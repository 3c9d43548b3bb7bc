"""A network, a frontend and a phase of one's own: a class anywhere, one file of settings, nothing else."""

from pathlib import Path

import pytest
import torch
from command import call, results, weights
from tiny import RATE, SECONDS, OwnNet, Thirds

from asc import InputError, SceneClassifier

FILES = {
    "phase": "_target_: tiny.Rounded\nsteps: 8\n",
    "net": "_target_: tiny.OwnNet\nfilters: [4, 8, 8, 16]\n",
    "frontend": "_target_: tiny.Thirds\nsample_rate: ${sample_rate}\n",
}


@pytest.fixture(scope="module")
def conf(tmp_path_factory) -> Path:
    """A folder of settings beside the package's."""
    folder = tmp_path_factory.mktemp("conf")
    for group, text in FILES.items():
        (folder / group).mkdir()
        (folder / group / "mine.yaml").write_text(text)
    return folder


@pytest.fixture(scope="module")
def own(conf, job, tmp_path_factory) -> Path:
    """The directory of a training with a network and a frontend of one's own."""
    directory = tmp_path_factory.mktemp("own")
    words = [f"hydra.searchpath=[file://{conf}]", "net=mine", "frontend=mine", f"hydra.run.dir={directory}"]
    assert call(*job, *words) is None
    return directory


def test_a_network_and_a_frontend_are_trained_and_loaded_on_trust(own):
    assert results(own)["stage"] == "float"
    checkpoint = own / "checkpoints/best.ckpt"
    with pytest.raises(InputError, match=r"=tiny\.\w+: .*trusted"):
        SceneClassifier.load_from_checkpoint(checkpoint)
    model = SceneClassifier.load_from_checkpoint(checkpoint, trusted=["tiny"])
    assert (type(model.net), type(model.frontend)) == (OwnNet, Thirds)
    assert model.example_features().shape == (1, 1, 54, 50 * SECONDS)  # every third of 0 to 160 x 50 Hz; 20 ms each
    wave = 0.1 * torch.randn(2, RATE * SECONDS)
    torch.testing.assert_close(model(wave), model.net(model.frontend(wave)))


@pytest.mark.parametrize("way", ["--config-dir", "hydra.searchpath"])
def test_a_phase_leaves_its_checkpoint_and_results(way, own, conf, tmp_path):
    there = ["--config-dir", str(conf)] if way == "--config-dir" else [f"hydra.searchpath=[file://{conf}]"]
    words = [f"checkpoint={own}/checkpoints/best.ckpt", "trusted=[tiny]", "phase=mine", "trainer.max_epochs=1"]
    assert call(*there, *words, f"hydra.run.dir={tmp_path}", script="compress.py") is None
    assert results(tmp_path)["stage"] == "pruned"
    assert results(tmp_path)["checkpoint"] == str(tmp_path / "pruned.ckpt")
    assert sorted(path.name for path in tmp_path.rglob("*.ckpt")) == ["last.ckpt", "pruned.ckpt"]
    learned = [value for key, value in weights(tmp_path / "pruned.ckpt").items() if key.endswith(("weight", "bias"))]
    assert all(torch.equal(8 * value, (8 * value).round()) for value in learned)
    model = SceneClassifier.load_from_checkpoint(tmp_path / "pruned.ckpt", trusted=["tiny"])
    assert type(model.net) is OwnNet
