"""Which epochs a run saves, and how a resumed run continues from them."""

import shutil
import signal
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from command import call, rows, weights
from tiny import PLAIN, ctrl_c

from asc.errors import WriteError
from asc.training.checkpoints import AtomicCheckpointIO

VALIDATED = ["data.val_fraction=0.25", "callbacks.checkpoint.monitor=val/score"]


def train(job: list[str], directory: Path, *words: str) -> int | str | None:
    return call(*job, *PLAIN, *words, f"hydra.run.dir={directory}")


def score(values: list[float]) -> list[str]:
    """A run of so many epochs, with these validation metrics."""
    words = ["+callbacks.score._target_=tiny.Score", f"+callbacks.score.values={values}"]
    return [*words, f"trainer.max_epochs={len(values)}"]


def saved(directory: Path, name: str = "best.ckpt") -> int:
    """The epoch of the checkpoint, from 0."""
    return torch.load(directory / "checkpoints" / name, weights_only=True)["epoch"]


def same_weights(one: Path, other: Path, *names: str) -> bool:
    """Whether the checkpoints of these names contain the same weights in two runs."""
    states = [[weights(run / "checkpoints" / name) for name in names] for run in (one, other)]
    return all(torch.equal(a[key], b[key]) for a, b in zip(*states, strict=True) for key in a)


@pytest.mark.parametrize(
    ("values", "after_epoch", "best"),
    [
        ([0.2, 0.7, 0.5, 0.7, 0.1], 0, 1),  # the first of equals
        ([0.2, 0.7, 0.5, 0.6, 0.1], 2, 3),  # the best of the epochs that may be saved
        ([0.9, 0.7, 0.5], 50, 2),  # none may be: the last one
    ],
)
def test_the_best_epoch_is_saved_and_the_last(job, tmp_path, values, after_epoch, best):
    words = [*VALIDATED, *score(values), f"callbacks.checkpoint.after_epoch={after_epoch}"]
    assert train(job, tmp_path, *words) is None
    assert (saved(tmp_path), saved(tmp_path, "last.ckpt")) == (best, len(values) - 1)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    assert "optimizer_states" not in torch.load(tmp_path / "checkpoints/best.ckpt", weights_only=True)


def test_the_best_epoch_is_that_of_the_highest_validation_accuracy(trained):
    directory, _ = trained
    accuracy = [float(row["val/acc"]) for row in rows(directory / "metrics.csv")]
    assert saved(directory) == accuracy.index(max(accuracy))


def test_the_lowest_loss_is_the_best(job, tmp_path):
    words = ["data.val_fraction=0.25", "callbacks.checkpoint.monitor=val/loss", "trainer.max_epochs=3"]
    assert train(job, tmp_path, *words) is None
    losses = [float(row["val/loss"]) for row in rows(tmp_path / "metrics.csv")]
    assert saved(tmp_path) == losses.index(min(losses)) != losses.index(max(losses))


def test_without_validation_the_last_epoch_is_the_best(job, tmp_path):
    assert train(job, tmp_path, "callbacks.checkpoint.after_epoch=1") is None
    assert saved(tmp_path) == saved(tmp_path, "last.ckpt") == 1
    best, last = (weights(tmp_path / "checkpoints" / name) for name in ("best.ckpt", "last.ckpt"))
    assert all(torch.equal(best[key], last[key]) for key in best)


@pytest.mark.parametrize(
    ("place", "later", "best"), [("same", 0.5, 1), ("another", 0.5, 1), ("another", 0.95, 3), ("moved", 0.5, 1)]
)
def test_a_resumed_run_knows_the_best_score_so_far(job, tmp_path, place, later, best):
    values = [0.2, 0.9, 0.1, later]
    stopped = train(job, tmp_path / "same", *VALIDATED, *score(values), *ctrl_c(3))
    last = tmp_path / "same/checkpoints/last.ckpt"
    assert f"checkpoint={last}" in str(stopped)
    assert (saved(tmp_path / "same"), saved(tmp_path / "same", "last.ckpt")) == (1, 2)
    if place == "moved":
        shutil.move(tmp_path / "same", tmp_path / "moved")
        last = tmp_path / "moved/checkpoints/last.ckpt"

    assert train(job, tmp_path / place, *VALIDATED, *score(values), f"checkpoint={last}") is None
    assert (saved(tmp_path / place), saved(tmp_path / place, "last.ckpt")) == (best, 3)
    assert [row["epoch"] for row in rows(tmp_path / place / "metrics.csv")] == ["1", "2", "3", "4"]
    if place == "another":
        assert (saved(tmp_path / "same"), saved(tmp_path / "same", "last.ckpt")) == (1, 2), "the first run stays"


def test_a_finished_run_trains_for_longer(job, tmp_path):
    values = [0.2, 0.9, 0.1, 0.5]
    assert train(job, tmp_path / "two", "~scheduler", *VALIDATED, *score(values[:2])) is None
    last = f"checkpoint={tmp_path}/two/checkpoints/last.ckpt"
    assert train(job, tmp_path / "four", "~scheduler", *VALIDATED, *score(values), last) is None
    assert (saved(tmp_path / "four"), saved(tmp_path / "four", "last.ckpt")) == (1, 3)
    assert [row["epoch"] for row in rows(tmp_path / "four/metrics.csv")] == ["1", "2", "3", "4"]


def test_a_resumed_run_needs_no_earlier_best_epoch(job, tmp_path):
    """last.ckpt alone is enough; the epochs from here on compete."""
    values = [0.9, 0.3, 0.2]
    train(job, tmp_path / "first", *VALIDATED, *score(values), *ctrl_c(1))
    last = shutil.move(tmp_path / "first/checkpoints/last.ckpt", tmp_path / "last.ckpt")
    shutil.rmtree(tmp_path / "first")
    assert train(job, tmp_path / "second", *VALIDATED, *score(values), f"checkpoint={last}") is None
    assert saved(tmp_path / "second") == 1


def test_sigterm_ends_a_run_as_ctrl_c_does(job, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    stopped = train(job, tmp_path, *ctrl_c(1, "SIGTERM"))
    assert f"checkpoint={tmp_path}/checkpoints/last.ckpt" in str(stopped)
    assert saved(tmp_path, "last.ckpt") == 0
    assert signal.getsignal(signal.SIGTERM) == before


AUGMENTED = ["augmentation=[mixup,small_data]", "data.val_fraction=0.25"]
WORKERS = ["data.cache=false", "data.num_workers=2"]
ACCUMULATED = ["+trainer.accumulate_grad_batches=2"]


@pytest.mark.parametrize(
    ("settings", "within"), [(AUGMENTED, False), (AUGMENTED, True), (WORKERS, True), (ACCUMULATED, True)]
)
def test_a_resumed_run_ends_as_one_that_was_not_stopped(job, tmp_path, settings, within):
    whole_run, cut = tmp_path / "whole", tmp_path / "cut"
    assert train(job, whole_run, *settings) is None
    saving = ["save_minutes=1e-9"] if within else []
    assert "checkpoint=" in str(train(job, cut, *settings, *saving, *ctrl_c(1, batch=3)))
    last = cut / "checkpoints/last.ckpt"
    state = torch.load(last, weights_only=True)
    assert (state["epoch"], "within_epoch" in state) == (int(within), within)
    assert train(job, cut, *settings, f"checkpoint={last}") is None
    assert same_weights(whole_run, cut, "last.ckpt", "best.ckpt")
    tables = [rows(run / "metrics.csv") for run in (whole_run, cut)]
    for row in (row for table in tables for row in table):
        del row["seconds"], row["clips_per_second"]
    assert tables[0] == tables[1]


def reversed_trainer(callbacks: list[pl.Callback], **settings: object) -> pl.Trainer:
    return pl.Trainer(callbacks=callbacks[::-1], **settings)


def test_a_run_resumes_exactly_whatever_the_order_of_its_callbacks(job, tmp_path):
    words = ["augmentation=[mixup]", "data.val_fraction=0.25"]
    assert train(job, tmp_path / "whole", *words) is None
    words += ["trainer._target_=test_checkpoints.reversed_trainer", "save_minutes=1e-9"]
    train(job, tmp_path / "cut", *words, *ctrl_c(1, batch=3))
    assert train(job, tmp_path / "cut", *words, f"checkpoint={tmp_path}/cut/checkpoints/last.ckpt") is None
    assert same_weights(tmp_path / "whole", tmp_path / "cut", "last.ckpt", "best.ckpt")


def test_weights_alone_cannot_be_resumed(trained, job, tmp_path):
    best = trained[0] / "checkpoints/best.ckpt"
    same = ["trainer.max_epochs=20", "data.val_fraction=0.25", f"checkpoint={best}", f"hydra.run.dir={tmp_path}"]
    assert "best.ckpt has no optimizer state: resume from last.ckpt" in str(call(*job, *same))


def test_a_metric_that_validation_does_not_log_is_named(job, tmp_path):
    told = str(train(job, tmp_path, "data.val_fraction=0.25", "callbacks.checkpoint.monitor=val/f1"))
    assert told.startswith("error: `ModelCheckpoint(monitor='val/f1')` could not find the monitored key")
    assert not list(tmp_path.glob("checkpoints/*.ckpt"))


def test_compression_reads_its_checkpoint_once(trained, tmp_path, monkeypatch):
    best, read, load = trained[0] / "checkpoints/best.ckpt", [], torch.load

    def counted(file: object, **settings: object) -> object:
        read.append(str(file))
        return load(file, **settings)

    monkeypatch.setattr(torch, "load", counted)
    words = [f"checkpoint={best}", "phase=prune_filters", "trainer.max_epochs=1", f"hydra.run.dir={tmp_path}"]
    assert call(*words, script="compress.py") is None
    assert read.count(str(best)) == 1


class Unwritable:
    """What cannot be pickled."""

    def __reduce__(self):
        raise OSError("the disk is full")


def test_a_checkpoint_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "checkpoints/any.ckpt"
    AtomicCheckpointIO().save_checkpoint({"epoch": 1}, path)
    with pytest.raises(WriteError, match=r"any.ckpt cannot be written \(the disk is full\)"):
        AtomicCheckpointIO().save_checkpoint({"epoch": 2, "broken": Unwritable()}, path)
    assert torch.load(path, weights_only=True) == {"epoch": 1}
