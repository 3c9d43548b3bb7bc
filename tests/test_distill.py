"""A network that learns from others."""

import json

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from classifiers import classifier, save
from command import call
from torch.utils.data import DataLoader

from asc import InputError, SceneClassifier
from asc.compress import Distill, Prune

QUIET = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}


def batches(clips: int = 8) -> DataLoader:
    return DataLoader([[torch.randn(clips, 1, 32, 32), torch.zeros(clips, dtype=torch.long)]], batch_size=None)


@pytest.mark.usefixtures("device")
def test_targets_are_the_mean_of_the_teachers_softened_answers():
    first, second = classifier(), classifier()
    phase = Distill(temperature=3.0)
    phase.begin(first, second)
    x = torch.randn(5, 1, 32, 32)
    with torch.no_grad():
        expected = ((first.net(x) / 3).softmax(1) + (second.net(x) / 3).softmax(1)) / 2
    torch.testing.assert_close(phase.answers(x), expected)


def test_the_student_is_new_and_shares_the_features():
    torch.manual_seed(0)
    teacher = classifier(frontend={"standardize": True})
    teacher.frontend.fit([torch.randn(4, 1, 32, 9)])
    small = {"_target_": "asc.nets.PhamCNN", "filters": [4, 8, 8, 8]}
    student = Distill(net=small).begin(teacher)
    assert student.hparams["net"] == small
    assert torch.equal(student.frontend.mean, teacher.frontend.mean)
    same = Distill().begin(teacher)
    assert same.hparams["net"] == teacher.hparams["net"]
    assert not torch.equal(same.net.dense.weight, teacher.net.dense.weight)


def test_the_loss_is_hintons():
    """T^2 times the divergence of both sides over T, and the plain one again after training."""
    model, x = classifier(), torch.randn(6, 1, 32, 32)
    target = torch.randn(6, 3).softmax(1)
    model.log = lambda *args, **kwargs: None
    with torch.no_grad():
        for temperature in (1.0, 2.0):
            model.temperature = temperature
            logits = model.net(x) / temperature
            expected = temperature**2 * F.kl_div(logits.log_softmax(1), target, reduction="batchmean")
            torch.testing.assert_close(model.training_step([x, target], 0), expected)


def test_a_student_learns_its_teachers_answers_not_the_labels():
    """All labels say class 0; the teacher, which always answers 2, is who is believed."""
    teacher = classifier()
    with torch.no_grad():
        teacher.net.dense.weight.zero_()
        teacher.net.dense.bias.copy_(torch.tensor([0.0, 0.0, 9.0]))
    phase = Distill()
    student = phase.begin(teacher)
    student.hparams["optimizer"]["lr"] = 1e-2
    trainer = pl.Trainer(max_epochs=20, callbacks=[phase], **QUIET)
    trainer.fit(student.train(), batches())
    student = phase.finish(student)
    with torch.inference_mode():
        assert (student.net(torch.randn(8, 1, 32, 32)).argmax(1) == 2).all()
    assert (student.temperature, student.stage) == (1.0, "float")


def test_teachers_of_another_frontend_and_phases_of_one_source_are_refused():
    with pytest.raises(InputError, match="the teachers differ in frontend"):
        Distill().begin(classifier(), classifier(frontend={"normalize": "clip"}))
    with pytest.raises(InputError, match="Prune takes one checkpoint, not 2"):
        Prune().begin(classifier(), classifier())
    with pytest.raises(InputError, match="invalid phase.temperature=0"):
        Distill(temperature=0)


@pytest.mark.slow
def test_the_command_line(trained, tmp_path):
    best = trained[0] / "checkpoints/best.ckpt"
    words = [f"checkpoint=[{best},{best}]", "phase=distill", "net=pham_cnn", "net.filters=[8,8,8,8]", "seed=1"]
    quick = ["trainer.max_epochs=2", "data.num_workers=0", f"hydra.run.dir={tmp_path}"]
    assert call(*words, *quick, script="compress.py") is None
    assert json.loads((tmp_path / "results.json").read_text())["stage"] == "float"
    student = SceneClassifier.load_from_checkpoint(tmp_path / "float.ckpt")
    assert student.hparams["net"]["filters"] == [8, 8, 8, 8]
    message = str(call(words[0], "phase=qat", *quick[:2], f"hydra.run.dir={tmp_path}/2", script="compress.py"))
    assert "QAT takes one checkpoint, not 2" in message


# Transfer


def test_a_new_task_starts_from_what_an_old_one_learned(tmp_path):
    source = SceneClassifier.load_from_checkpoint(save(classifier(), tmp_path / "source.ckpt"))
    model = SceneClassifier(**{**source.hparams, "labels": ["bus", "tram", "park", "mall"]})
    fresh = model.net.dense.weight.detach().clone()
    model.start_from(source)
    assert torch.equal(model.net.dense.weight, fresh)
    for name, value in source.net.blocks.state_dict().items():
        assert torch.equal(model.net.blocks.state_dict()[name], value), name
    same = classifier()
    same.start_from(source)
    assert torch.equal(same.net.dense.weight, source.net.dense.weight)
    with pytest.raises(InputError, match=r"init was trained with another net \(bn_first_block_only\)"):
        classifier({"bn_first_block_only": True}).start_from(source)
    with pytest.raises(InputError, match=r"init was trained with another frontend \(n_bins\)"):
        classifier(frontend={"n_bins": 16}).start_from(source)
    classifier({"bn_first_block_only": False}).start_from(source)  # its default, said aloud


@pytest.mark.parametrize("scheduler", [None, {"_target_": "torch.optim.lr_scheduler.OneCycleLR", "max_lr": 1e-3}])
def test_the_body_learns_more_slowly(scheduler):
    model = classifier(backbone_lr_scale=0.1, scheduler=scheduler)
    rates = []

    class Rates(pl.Callback):
        def on_train_batch_end(self, trainer, *args):
            rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])

    trainer = pl.Trainer(max_epochs=3, callbacks=[Rates()], **QUIET)
    trainer.fit(model.train(), batches())
    groups = trainer.optimizers[0].param_groups
    assert [sum(p.numel() for p in group["params"]) for group in groups] == [62_341 - 771, 771]
    for body, head in rates:
        assert body == pytest.approx(0.1 * head)
