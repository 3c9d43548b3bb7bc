"""One training shared by several processes, and a sweep whose runs go side by side."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from command import call, results, rows, run, weights
from tiny import PLAIN

from asc.data import SceneData
from asc.data.lists import Clip

TWO = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]


def split(root: Path) -> dict[str, list[Clip]]:
    data = SceneData(str(root), val_fraction=0.25, missing="skip", cache=False)
    data.setup()
    return data.clips


@pytest.fixture(scope="module")
def shared_job(job, tiny, tmp_path_factory) -> list[str]:
    """18 clips to train on, so that two processes get as many, and five held out, which they cannot share evenly."""
    root = Path(shutil.copytree(tiny, tmp_path_factory.mktemp("shared") / "data"))
    split(root)["val"][0].path.unlink()
    assert {name: len(clips) for name, clips in split(root).items()} == {"train": 18, "val": 5, "test": 12}
    held_out = ["data.val_fraction=0.25", "data.missing=skip", "trainer.max_epochs=2"]
    return [*job, *PLAIN, *held_out, f"data.root={root}", f"data.cache_dir={root}/cache"]


@pytest.mark.nightly
def test_two_processes_learn_and_print_what_one_does_with_batches_of_twice_the_size(shared_job, tmp_path):
    pair, single = tmp_path / "pair", tmp_path / "single"
    done = run(*shared_job, *TWO, "data.batch_size=3", f"hydra.run.dir={pair}")
    assert done.returncode == 0, done.stderr
    for line in ("network     Plain", "epoch 1/2", "macro accuracy", "log loss"):
        assert done.stdout.count(line) == 1
    assert call(*shared_job, "trainer.accelerator=cpu", "data.batch_size=6", f"hydra.run.dir={single}") is None
    for name in ("last.ckpt", "best.ckpt"):
        two, one = (weights(path / "checkpoints" / name) for path in (pair, single))
        for key in one:
            torch.testing.assert_close(two[key], one[key], rtol=1e-4, atol=1e-6)
    two, one = (rows(path / "metrics.csv") for path in (pair, single))
    for column in ("epoch", "train/loss", "val/loss", "val/acc", "lr"):
        assert [float(row[column]) for row in two] == pytest.approx([float(row[column]) for row in one], rel=1e-4)
    assert np.ptp([float(row["val/loss"]) for row in one]) > 0.1, "nothing was learned that could differ"
    tests = [results(path)["test"] for path in (pair, single)]
    assert tests[0]["confusion_matrix"] == tests[1]["confusion_matrix"]
    assert np.sum(tests[0]["confusion_matrix"]) == 12


def test_a_sweep_of_runs_in_several_processes_is_refused(job, tmp_path):
    message = str(call("-m", *job, *TWO, "seed=0,1", f"hydra.sweep.dir={tmp_path}"))
    assert message.startswith("error: a sweep")
    assert "trainer=default" in message
    assert len(message.splitlines()) == 1
    assert not list(tmp_path.glob("*/checkpoints"))


@pytest.mark.nightly
def test_runs_side_by_side_are_those_done_alone_and_compute_the_features_once(job, tmp_path):
    same = [*job, "trainer.accelerator=cpu", "trainer.max_epochs=1"]
    beside = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", f"data.cache_dir={tmp_path}/cache"]
    done = run("-m", *same, *beside, "seed=0,1", f"hydra.sweep.dir={tmp_path}/sweep")
    assert done.returncode == 0, done.stderr
    assert len([file for file in tmp_path.glob("cache/*.npy") if np.load(file, mmap_mode="r").ndim == 3]) == 1
    tests = []
    for seed in "01":
        assert call(*same, f"seed={seed}", f"hydra.run.dir={tmp_path}/{seed}") is None
        tests.append(results(tmp_path / seed)["test"])
        assert results(tmp_path / "sweep" / seed)["test"] == tests[-1]
    assert tests[0] != tests[1]
