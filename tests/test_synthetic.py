"""The synthetic scenes are generated once, and averages over time do not classify them."""

import json
import resource
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from command import run
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from asc import InputError, SceneClassifier
from asc.data import SceneData
from asc.data.synthetic import SyntheticScenes, write_scenes
from asc.errors import WriteError

FEW = {"train_locations": 1, "test_locations": 1, "segments": 1, "seconds": 0.5}


def content(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()}


def test_the_bytes_depend_on_the_seed_alone(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_scenes(tmp_path / name, seed=seed, **FEW)
    assert content(tmp_path / "a") == content(tmp_path / "b") != content(tmp_path / "c")
    write_scenes(tmp_path / "a", seed=1, **FEW)  # exists already
    assert content(tmp_path / "a") == content(tmp_path / "b")
    data = SceneData(str(tmp_path / "a"), cache=False)
    data.setup()
    assert data.labels == ["indoor", "outdoor", "transportation"]
    assert {split: len(clips) for split, clips in data.clips.items()} == {"train": 10, "val": 0, "test": 10}


def test_concurrent_runs_generate_one_dataset(tmp_path):
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: write_scenes(tmp_path / "a", **FEW), range(2)))
    write_scenes(tmp_path / "b", **FEW)
    assert content(tmp_path / "a") == content(tmp_path / "b")
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == ["a", "b"]


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
    write_scenes(tmp_path / "a", **FEW)
    shutil.move(tmp_path / "a", tmp_path / ".b.tmp")
    (tmp_path / ".b.tmp/audio/stray.flac").touch()
    (tmp_path / ".b.lock").touch()
    write_scenes(tmp_path / "b", **FEW)
    assert not list(tmp_path.glob("*.tmp"))
    assert not (tmp_path / "b/audio/stray.flac").exists()


def test_a_full_disk_is_reported_and_leaves_nothing(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))  # a clip has 44,100 bytes before its encoding
    try:
        with pytest.raises(WriteError, match=f"data.root={tmp_path}/a cannot be written"):
            write_scenes(tmp_path / "a", **FEW)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.iterdir()] == [".a.lock"]


@pytest.mark.parametrize("name", ["notes.txt", "meta.csv"])
def test_a_folder_of_something_else_is_left_alone(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match="data=dcase"):
        SyntheticScenes(str(tmp_path)).prepare_data()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def band_statistics(data: SceneData, split: str) -> tuple[np.ndarray, list[int]]:
    """Mean and standard deviation over time of each band."""
    features, targets = (torch.cat(parts) for parts in zip(*data.loader(split), strict=True))
    features = features.float()  # (clips, 1, n_bins, frames), cached in float16
    return torch.cat([features.mean(-1), features.std(-1)], -1).flatten(1).numpy(), targets.tolist()


@pytest.mark.nightly
def test_the_network_beats_band_statistics_by_ten_points(tmp_path):
    """`python train.py` on the default scenes, for 8 of its 60 epochs."""
    root = tmp_path / "scenes"
    words = [f"data.root={root}", f"data.cache_dir={tmp_path}/cache", f"hydra.run.dir={tmp_path}/run"]
    done = run(*words, "trainer.max_epochs=8")
    assert done.returncode == 0, done.stderr
    network = json.loads((tmp_path / "run/results.json").read_text())["test"]["macro_accuracy"]
    assert network >= 0.90

    model = SceneClassifier.load_from_checkpoint(tmp_path / "run/checkpoints/best.ckpt")
    data = SyntheticScenes(str(root), cache_dir=f"{tmp_path}/cache")
    data.setup()
    data.cache_features(model.hparams["frontend"], model.frontend, torch.device("cpu"))  # which the run has computed
    (train, train_targets), (test, targets) = (band_statistics(data, split) for split in ("train", "test"))
    best = 0.0
    for strength in (0.01, 0.1, 1.0):
        regression = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=5000))
        guess = regression.fit(train, train_targets).predict(test)
        best = max(best, balanced_accuracy_score(targets, guess))
    assert 1 / 3 < best <= network - 0.10
    assert sum(file.stat().st_size for file in root.rglob("*")) < 150e6
