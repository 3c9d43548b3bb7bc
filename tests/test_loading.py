"""Checkpoints: what they hold, what they may name, and that those of earlier versions load."""

from pathlib import Path

import pytest
import torch
from classifiers import classifier, save

from asc import InputError, SceneClassifier
from asc.loading import check_targets


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return save(classifier(), tmp_path_factory.mktemp("checkpoint") / "best.ckpt")


def test_hyperparameters_may_be_replaced_at_loading(checkpoint):
    loaded = SceneClassifier.load_from_checkpoint(checkpoint, channel="mean")
    assert loaded.channel == "mean"


def test_a_foreign_target_is_refused_before_it_runs(checkpoint, tmp_path):
    content = torch.load(checkpoint, weights_only=True)
    proof = tmp_path / "proof"
    content["hyper_parameters"]["net"] = {"_target_": "os.system", "command": f"touch {proof}"}
    torch.save(content, tmp_path / "evil.ckpt")
    with pytest.raises(InputError, match="os.system.*no class of asc"):
        SceneClassifier.load_from_checkpoint(tmp_path / "evil.ckpt")
    assert not proof.exists()


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "asc.loading.pickle.loads",  # begins well and leads elsewhere
        "asc.loading.read_checkpoint",  # a function, not a part of a model
        "asc.nothing.here",
        "torch.optim.os.system",
        "torch.hub.load",
        "ascii.Evil",
    ],
)
def test_targets_that_are_no_parts_of_a_model_are_refused(target):
    for node in ({"_target_": target}, {"_target_": "asc.nets.PhamCNN", "deep": [{"inner": {"_target_": target}}]}):
        with pytest.raises(InputError, match="wants to run"):
            check_targets(node, (), "x.ckpt")


def test_a_trusted_module_is_allowed():
    node = {"_target_": "torch.nn.Flatten"}
    with pytest.raises(InputError):
        check_targets(node, (), "x.ckpt")
    check_targets(node, ("torch.nn",), "x.ckpt")


def test_files_that_are_no_checkpoints_are_refused(tmp_path):
    (tmp_path / "text.ckpt").write_text("no checkpoint\n")
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.ckpt")
    (tmp_path / "empty.ckpt").touch()
    for name in ("text.ckpt", "other.ckpt", "empty.ckpt"):
        with pytest.raises(InputError, match=f"{name} is not a checkpoint of this program"):
            SceneClassifier.load_from_checkpoint(tmp_path / name)
    with pytest.raises(InputError, match="does not exist"):
        SceneClassifier.load_from_checkpoint(tmp_path / "none.ckpt")


def test_weights_that_do_not_fit_are_refused(checkpoint, tmp_path):
    content = torch.load(checkpoint, weights_only=True)
    content["hyper_parameters"]["labels"] = ["only", "two"]
    torch.save(content, tmp_path / "mixed.ckpt")
    with pytest.raises(InputError, match="does not fit its own settings"):
        SceneClassifier.load_from_checkpoint(tmp_path / "mixed.ckpt")
