"""What a run sends to TensorBoard, Weights & Biases and MLflow, read back from their files."""

import json
import subprocess

import numpy as np
import pytest
from command import ENVIRONMENT, call, results, run
from PIL import Image
from tiny import PLAIN

QUICK = [*PLAIN, "augmentation=[mixup]", "trainer.max_epochs=1"]


def final(directory) -> dict[str, float]:
    """Some of the metrics in results.json, by the names that a logger gets."""
    found = results(directory)
    return {
        "test/macro_accuracy": found["test"]["macro_accuracy"],
        "test/accuracy_indoor": found["test"]["class_accuracy"]["indoor"],
        **{name: found["complexity"][name] for name in ("size_kb", "file_bytes")},
    }


def pixels(file) -> np.ndarray:
    return np.asarray(Image.open(file).convert("RGB"))


@pytest.fixture(scope="module")
def logged(job, tmp_path_factory):
    """The directory of a run with TensorBoard."""
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    directory = tmp_path_factory.mktemp("logged")
    assert call(*job, "logger=tensorboard", "augmentation=[mixup]", f"hydra.run.dir={directory}") is None
    return directory


def test_tensorboard_gets_metrics_pictures_and_a_table(logged, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(logged / "tensorboard"))
    events.Reload()
    assert len(events.Scalars("train/loss_epoch")) == 2
    assert len(events.Scalars("train/loss_step")) == 2 * 6
    for name, value in final(logged).items():
        assert events.Scalars(name)[0].value == pytest.approx(value)
    for name in ("augmentation", "confusion_matrix"):
        copy = tmp_path / f"{name}.png"
        copy.write_bytes(events.Images(name)[0].encoded_image_string)
        assert np.array_equal(pixels(copy), pixels(logged / f"{name}.png"))
    text = events.Tensors("final_results/text_summary")[0].tensor_proto.string_val[0].decode()
    assert f"|size_kb|{final(logged)['size_kb']}|" in text.splitlines()


@pytest.mark.nightly
def test_wandb_offline_gets_metrics_pictures_and_a_table_for_each_run_of_a_sweep(job, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")  # which Lightning sets and leaves
    words = ["logger=wandb", "logger.offline=true", f"hydra.sweep.dir={tmp_path}"]
    assert call("-m", *job, *QUICK, *words, "seed=0,1") is None
    for directory in (tmp_path / "0", tmp_path / "1"):
        (run,) = directory.glob("wandb/offline-run-*")
        (table,) = run.glob("files/media/table/final_results*.json")
        content = dict(json.loads(table.read_text())["data"])
        assert {name: content[name] for name in final(directory)} == pytest.approx(final(directory))
        for name in ("augmentation", "confusion_matrix"):
            (picture,) = run.glob(f"files/media/images/{name}*.png")
            assert np.array_equal(pixels(picture), pixels(directory / f"{name}.png"))
        assert b"train/loss_epoch" in next(run.glob("*.wandb")).read_bytes()


def test_mlflow_gets_metrics_pictures_and_a_table(job, tmp_path):
    pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    assert call(*job, *QUICK, "logger=mlflow", f"hydra.run.dir={tmp_path}") is None
    (run,) = (path.parent for path in tmp_path.glob("mlruns/*/*/artifacts"))
    assert "status: 3" in (run / "meta.yaml").read_text().splitlines()  # finished
    for name, value in final(tmp_path).items():
        assert float((run / "metrics" / name).read_text().split()[1]) == pytest.approx(value)
    content = dict(json.loads((run / "artifacts/final_results.json").read_text())["data"])
    assert {name: content[name] for name in final(tmp_path)} == pytest.approx(final(tmp_path))
    for name in ("augmentation", "confusion_matrix"):
        assert np.array_equal(pixels(run / f"artifacts/{name}.png"), pixels(tmp_path / f"{name}.png"))


def test_logging_does_not_change_training(logged, job, tmp_path):
    assert call(*job, "augmentation=[mixup]", f"hydra.run.dir={tmp_path}") is None
    assert results(tmp_path)["test"] == results(logged)["test"]
    assert not (tmp_path / "augmentation.png").exists(), "which is for the logger"


def test_compression_is_logged(logged, tmp_path):
    words = [f"checkpoint={logged}/checkpoints/best.ckpt", "phase=prune", "trainer.max_epochs=1"]
    assert call(*words, "logger=tensorboard", f"hydra.run.dir={tmp_path}", script="compress.py") is None
    assert list(tmp_path.glob("tensorboard/events*"))
    assert (tmp_path / "augmentation.png").exists()


def test_a_missing_extra_is_named_before_anything_is_computed(job, tmp_path, monkeypatch):
    monkeypatch.setattr("pytorch_lightning.loggers.wandb._WANDB_AVAILABLE", False)
    message = call(*job, "logger=wandb", f"hydra.run.dir={tmp_path}")
    assert message == 'error: logger=wandb is not installed: pip install -e ".[wandb]"'
    assert not list(tmp_path.glob("*.csv"))


def test_wandb_without_a_key_is_one_sentence_before_features_are_computed(job, tmp_path):
    """In a process of its own, since wandb keeps its first settings."""
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    environment = {name: value for name, value in ENVIRONMENT.items() if not name.startswith("WANDB_")}
    words = ["logger=wandb", f"data.cache_dir={tmp_path}/cache", f"hydra.run.dir={tmp_path}/run"]
    # HOME is where `wandb login` writes
    done = run(*job, *words, env={**environment, "HOME": str(tmp_path)}, stdin=subprocess.DEVNULL)
    assert done.returncode == 1
    message = done.stderr.splitlines()[-1]
    assert message.startswith("error: logger=wandb failed: No API key configured.")
    assert "wandb login" in message
    assert "logger.offline=true" in message
    assert "Traceback" not in done.stderr
    assert len(list(tmp_path.glob("cache/*.npy"))) == 1, "only the durations of the clips"


def test_the_reason_of_a_server_that_rejects_is_shown(job, tmp_path):
    pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    message = str(call(*job, "logger=mlflow", "logger.tracking_uri=nonsense://x", f"hydra.run.dir={tmp_path}"))
    assert message.startswith("error: ")
    assert "nonsense" in message
    assert len(message.splitlines()) == 1
