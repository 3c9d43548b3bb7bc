"""Phases in Python: distillation, what every phase shares, and transfer to a new task."""

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from classifiers import classifier, fit, save
from torch import nn
from torch.utils.data import DataLoader

from asc import InputError, SceneClassifier
from asc.compress import QAT, Distill, Phase, Prune, PruneFilters
from asc.data.datasets import FeatureBatch

QUIET = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
PHASES = [Prune, PruneFilters, Distill, QAT]


def batches() -> DataLoader:
    return DataLoader([FeatureBatch(torch.randn(8, 1, 32, 32), torch.zeros(8, dtype=torch.long))], batch_size=None)


# Distillation


@pytest.mark.usefixtures("device")
def test_targets_are_the_mean_of_the_teachers_softened_predictions():
    first, second = classifier(), classifier()
    phase = Distill(temperature=3.0)
    phase.begin(first, second)
    x = torch.randn(5, 1, 32, 32)
    with torch.no_grad():
        expected = ((first.net(x) / 3).softmax(1) + (second.net(x) / 3).softmax(1)) / 2
    torch.testing.assert_close(phase.soft_targets(x), expected)


def test_student_is_new_and_shares_the_features():
    teacher = classifier(frontend={"standardize": True})
    teacher.frontend.fit([torch.randn(4, 1, 32, 9)])
    small = {"_target_": "asc.nets.PhamCNN", "filters": [4, 8, 8, 8]}
    student = Distill(net=small).begin(teacher)
    assert student.hparams["net"] == small
    assert torch.equal(student.frontend.mean, teacher.frontend.mean)
    same = Distill().begin(teacher)
    assert same.hparams["net"] == teacher.hparams["net"]
    assert not torch.equal(same.net.dense.weight, teacher.net.dense.weight)


def test_loss_is_hintons():
    """T^2 times the divergence of both sides at temperature T."""
    logits, target = torch.randn(6, 3), torch.randn(6, 3).softmax(1)
    for temperature in (1.0, 2.0):
        expected = temperature**2 * F.kl_div((logits / temperature).log_softmax(1), target, reduction="batchmean")
        torch.testing.assert_close(Distill(temperature=temperature).loss(logits, target), expected)


def test_student_learns_its_teachers_predictions_not_the_labels():
    """All labels say class 0; the teacher always predicts 2."""
    teacher = classifier()
    with torch.no_grad():
        teacher.net.dense.weight.zero_()
        teacher.net.dense.bias.copy_(torch.tensor([0.0, 0.0, 9.0]))
    phase = Distill()
    student = phase.begin(teacher)
    own_loss = student.loss
    student.hparams["optimizer"]["lr"] = 1e-2
    pl.Trainer(max_epochs=20, callbacks=[phase], **QUIET).fit(student.train(), batches())
    student = phase.finish(student)
    with torch.inference_mode():
        assert (student.net(torch.randn(8, 1, 32, 32)).argmax(1) == 2).all()
    assert student.stage == "float"
    assert student.loss == own_loss


def test_teachers_share_a_frontend_and_other_phases_have_one_source():
    with pytest.raises(InputError, match="same frontend"):
        Distill().begin(classifier(), classifier(frontend={"normalize": "clip"}))
    for phase in (Prune(), PruneFilters(), QAT()):
        with pytest.raises(InputError, match=f"expected one for {type(phase).__name__}, not 2"):
            phase.begin(classifier(), classifier())
    with pytest.raises(InputError, match="invalid phase.temperature=0"):
        Distill(temperature=0)


# Every phase


class Subclass(SceneClassifier):
    """A classifier from outside the package."""


@pytest.mark.parametrize("kind", PHASES)
def test_phase_keeps_the_classifiers_subclass_and_trains_the_backbone_at_full_rate(kind):
    """The classifier was transferred with a backbone that learned at a tenth of the rate."""
    source = Subclass(**classifier(backbone_lr_scale=0.1).hparams)
    phase = kind()
    model = phase.begin(source)
    assert type(model) is Subclass
    assert model.hparams["backbone_lr_scale"] == 1.0
    finished = phase.finish(fit(model, phase, epochs=2))
    assert type(finished) is Subclass
    assert finished.hparams["backbone_lr_scale"] == 1.0
    assert source.hparams["backbone_lr_scale"] == 0.1


class Renamed(Phase):
    """A phase that stores its arguments under other names."""

    def __init__(self, steps: int = 16, *, half: bool = False):
        self.number = steps / 2 if half else steps

    def begin(self, model: SceneClassifier, *others: SceneClassifier) -> SceneClassifier:
        return model

    def finish(self, model: SceneClassifier) -> SceneClassifier:
        return model


@pytest.mark.parametrize("argument", ["steps", "half"])
def test_resuming_with_other_arguments_is_rejected_however_they_are_stored(argument, tmp_path):
    path, phase = tmp_path / "last.ckpt", Renamed(8)
    trainer = pl.Trainer(max_epochs=1, callbacks=[phase], **QUIET)
    trainer.fit(classifier().train(), batches())
    trainer.save_checkpoint(path)
    Renamed(steps=8, half=False).check_resumable(str(path))
    with pytest.raises(InputError, match=f"phase.{argument};"):
        Renamed(**{"steps": 8, argument: 16}).check_resumable(str(path))
    with pytest.raises(InputError, match="of a run of this phase"):
        Prune().check_resumable(str(path))


# Transfer


def test_new_task_starts_from_the_weights_of_an_old_one(tmp_path):
    source = SceneClassifier.load_from_checkpoint(save(classifier(), tmp_path / "source.ckpt"))
    model = SceneClassifier(**{**source.hparams, "labels": ["bus", "tram", "park", "mall"]})
    fresh = model.net.dense.weight.detach().clone()
    model.start_from(source)
    assert torch.equal(model.net.dense.weight, fresh)
    for name, value in source.net.blocks.state_dict().items():
        assert torch.equal(model.net.blocks.state_dict()[name], value), name
    same = classifier({"bn_first_block_only": False})  # its default, written out
    same.start_from(source)
    assert torch.equal(same.net.dense.weight, source.net.dense.weight)
    with pytest.raises(InputError, match="bn_first_block_only"):
        classifier({"bn_first_block_only": True}).start_from(source)
    with pytest.raises(InputError, match="n_bins"):
        classifier(frontend={"n_bins": 16}).start_from(source)


HEADS = {  # values of the layers that compute three logits
    "asc.nets.PhamCNN": 256 * 3 + 3,
    "asc.nets.Dcase2020Baseline": 100 * 3 + 3,
    "asc.nets.CPMobile": 104 * 3 + 2 * 3,  # a convolution, and its batch norm
}


@pytest.mark.parametrize("scheduler", [None, {"_target_": "torch.optim.lr_scheduler.OneCycleLR", "max_lr": 1e-3}])
@pytest.mark.parametrize("net", HEADS)
def test_backbone_learns_more_slowly_than_the_head(net, scheduler):
    settings = {"n_bins": 32} if net.endswith("Baseline") else {}
    model = classifier({"_target_": net, **settings}, backbone_lr_scale=0.1, scheduler=scheduler)
    rates = []

    class Rates(pl.Callback):
        def on_train_batch_end(self, trainer, *args):
            rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])

    trainer = pl.Trainer(max_epochs=3, callbacks=[Rates()], **QUIET)
    trainer.fit(model.train(), batches())
    backbone, head = (sum(p.numel() for p in group["params"]) for group in trainer.optimizers[0].param_groups)
    assert head == HEADS[net]
    assert backbone + head == sum(value.numel() for value in model.parameters())
    for slow, fast in rates:
        assert slow == pytest.approx(0.1 * fast)


class Headless(nn.Sequential):
    """A network that does not name its head."""

    def __init__(self, n_classes: int):
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, n_classes))


def test_network_without_a_head_is_rejected_for_transfer():
    model = classifier({"_target_": f"{__name__}.Headless"}, backbone_lr_scale=0.1)
    with pytest.raises(InputError, match="invalid backbone_lr_scale=0.1: .*Headless.*`head`"):
        model.configure_optimizers()
