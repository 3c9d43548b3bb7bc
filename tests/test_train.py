"""The real command line of train.py."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from command import call, results, rows, run, start, weights
from tiny import PLAIN

from asc import SceneClassifier
from asc.data import SceneData


def test_a_run_writes_what_the_contract_names(trained):
    directory, _ = trained
    found = results(directory)
    assert found.keys() == {"stage", "checkpoint", "labels", "test", "complexity", "training"}
    assert found["stage"] == "float"
    assert found["labels"] == ["indoor", "outdoor", "transportation"]
    matrix = np.array(found["test"]["confusion_matrix"])
    assert matrix.sum(1).tolist() == [4, 4, 4]  # two locations of two clips each
    assert found["test"]["accuracy"] == pytest.approx(matrix.trace() / 12)
    recall = matrix.diagonal() / matrix.sum(1)
    assert list(found["test"]["class_accuracy"].values()) == pytest.approx(recall)
    assert found["test"]["macro_accuracy"] == pytest.approx(recall.mean())
    cost = found["complexity"]
    assert cost["nonzero_parameters"] <= cost["parameters"] == 63_751
    assert cost["file_bytes"] == (directory / "model.onnx").stat().st_size
    table = rows(directory / "metrics.csv")
    assert [row["epoch"] for row in table] == [str(epoch) for epoch in range(1, 21)]
    assert list(table[0]) == ["epoch", "train/loss", "val/loss", "val/acc", "lr", "seconds", "clips_per_second"]
    seconds = sum(float(row["seconds"]) for row in table)
    speed = pytest.approx(18 * 20 / seconds, rel=1e-6)
    measured = {"epochs": 20, "seconds": pytest.approx(seconds), "clips_per_second": speed}
    assert found["training"] == {**measured, "precision": native_precision()}
    for picture in ("confusion_matrix.png", "training_curves.png"):
        assert (directory / picture).read_bytes().startswith(b"\x89PNG")


def native_precision() -> str:
    """What a processor of this machine trains fastest in, by the flags that its kernel lists."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        pytest.skip("this system does not list the processor's instructions")
    return "bf16-mixed" if {"avx512_bf16", "amx_bf16"} & set(flags) else "32-true"


@pytest.mark.parametrize("precision", ["bf16-mixed", "32-true"])
def test_either_precision_learns_and_is_tested_in_float32(precision, job, tiny, tmp_path):
    settings = ["data.cache=false", "trainer.max_epochs=10", f"trainer.precision={precision}"]
    assert call(*job, *settings, f"hydra.run.dir={tmp_path}") is None
    found = results(tmp_path)
    assert found["training"]["precision"] == precision
    assert found["test"]["macro_accuracy"] >= 0.9
    model = SceneClassifier.load_from_checkpoint(tmp_path / "checkpoints/best.ckpt")
    for row in rows(tmp_path / "predictions.csv"):
        expected = {label: float(row[label]) for label in model.labels}
        assert model.classify(tiny / row["filename"]) == pytest.approx(expected, abs=2e-5)


def test_plain_scenes_are_learned(trained):
    """Three sounds in three separate bands: anything less than nearly all of them means that training is broken."""
    directory, _ = trained
    assert results(directory)["test"]["macro_accuracy"] >= 0.9
    losses = [float(row["train/loss"]) for row in rows(directory / "metrics.csv")]
    assert losses[-1] < losses[0]


def test_a_run_prints_a_summary_each_epoch_and_a_table_and_nothing_else(trained):
    _, done = trained
    assert done.stderr == ""
    lines = re.sub(r"/\S+", "PATH", done.stdout).splitlines()
    assert max(map(len, lines)) <= 80
    for word in ("128 bins", "63,751 parameters", "MACs", "epoch 20PATH", "macro accuracy", "log loss", "clips/s"):
        assert word in "\n".join(lines).replace("clipsPATH", "clips/s")


def test_a_checkpoint_alone_classifies_files_in_a_fresh_process(trained, tiny, tmp_path):
    directory, _ = trained
    checkpoint = shutil.copy(directory / "checkpoints/best.ckpt", tmp_path)
    program = (
        "import json, sys\n"
        "from asc import SceneClassifier\n"
        "model = SceneClassifier.load_from_checkpoint(sys.argv[1])\n"
        "print(json.dumps([model.classify(file) for file in sys.argv[2:]]))\n"
    )
    lines = (tiny / "evaluation_setup/fold1_evaluate.csv").read_text().splitlines()[1:]
    tests = [line.split("\t") for line in lines]
    process = start(program, checkpoint, *(str(tiny / name) for name, _ in tests), script="-c")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    predictions = json.loads(out)
    right = [max(clip, key=clip.get) == label for clip, (_, label) in zip(predictions, tests, strict=True)]
    expected = results(directory)["test"]
    assert np.mean(right) == pytest.approx(expected["accuracy"])
    log_loss = -np.mean([np.log(clip[label]) for clip, (_, label) in zip(predictions, tests, strict=True)])
    assert log_loss == pytest.approx(expected["log_loss"], abs=0.01)  # the run's features were float16


def test_the_reports_recipe_runs_without_an_experiment(job, tmp_path):
    words = [word for word in job if "batch_size" not in word]
    assert call(*words, "~experiment", "trainer.max_epochs=1", f"hydra.run.dir={tmp_path}") is None
    assert results(tmp_path)["training"]["epochs"] == 1


def test_help_names_the_groups_and_cfg_prints_the_settings(capsys):
    call("--help")
    out = capsys.readouterr().out
    for group in ("data:", "frontend:", "net:", "experiment:", "augmentation:", "table3_baseline", "tau2020_3class"):
        assert group in out
    call("--cfg", "job", "experiment=table3_cnn")
    assert "max_epochs: 100" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["train.py", "trainer.max_epochs=0"], ["compress.py", "--help"]], ids=" ".join)
def test_help_and_mistyped_settings_come_without_torch(words):
    """It takes seconds to import."""
    done = run("importtime", *words, script="-X")
    assert bool(done.stdout) == ("--help" in words) != ("error: " in done.stderr)
    imported = re.findall(r"^import time: .*\| +(\S+)$", done.stderr, flags=re.MULTILINE)
    assert "argparse" in imported
    assert "torch" not in imported


FAULTS = {  # words of the command line, and of its message
    "data.root=???": ["data.root is not set"],
    "data.root=nowhere": ["nowhere", "not a directory"],
    "data=synthetic": ["data=dcase"],
    "data.clip_seconds=0.1": ["1600 samples", "window"],
    "optimizer.learning_rate=1": ["learning_rate"],
    "scheduler=one_cycle +scheduler.foo=1": ["OneCycleLR", "foo"],
    "optimizer.lr=fast": ["optimizer.lr=fast", "number"],
    "optimizer._target_=torch.optim.SGD optimizer.lr=100": ["diverged in epoch", "not finite", "optimizer.lr"],
    "trainer.precision=bf16-true": ["trainer.precision=bf16-true", "bf16-mixed"],
    "trainer.max_epochs=0": ["trainer.max_epochs=0"],
    "compile=quick": ["compile=quick", "reduce-overhead"],
    "trainer.accelerator=mps": ["trainer.accelerator=mps", "'cpu'"],
    "frontend.sample_rate=8000": ["data.sample_rate=16000", "frontend.sample_rate=8000", "sample_rate"],
    "~callbacks.checkpoint": ["callbacks.checkpoint", "best.ckpt"],
    "checkpoint=nowhere.ckpt": ["checkpoint=nowhere.ckpt", "No such file"],
    "experiment=null": ["~experiment"],
    "augmentation.spec_augment.bins=129": ["augmentation.spec_augment.bins=129", "from 0 to 128"],
    "augmentation.spec_augment.frames=33": ["augmentation.spec_augment.frames=33", "from 0 to 32"],
    "data.num_workers=1000": ["data.num_workers=1000", "128"],
    "callbacks.checkpoint.monitor=foo": ["callbacks.checkpoint.monitor=foo", "val/acc", "data.val_fraction"],
    "--optimizer.lr=0.001": ["expected optimizer.lr=0.001", "without dashes", "${args_no_hyphens}"],
    "--optimizer.lr 0.001": ["expected optimizer.lr", "without dashes"],
    "--seed=1": ["expected seed=1"],
    "max_size_kb=200": ["the network has 249.0 KB, more than max_size_kb=200"],
}


@pytest.mark.parametrize("words", FAULTS)
def test_an_invalid_setting_gets_one_sentence(job, tmp_path, words):
    message = str(call(*job, *words.split(), f"hydra.run.dir={tmp_path}"))
    assert message.startswith("error: ")
    assert len(message.splitlines()) == 1
    for word in FAULTS[words]:
        assert word in message
    assert not list(tmp_path.glob("*.json"))


def test_an_error_ends_the_process_with_its_sentence_on_stderr(tmp_path):
    done = run("data=dcase", f"data.root={tmp_path}", "seed=-1", f"hydra.run.dir={tmp_path}/run")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: invalid seed=-1: expected a number greater than or equal to 0\n"


@pytest.mark.parametrize(
    "fault",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 7 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
    ids=["GPU", "CPU"],
)
def test_a_batch_that_does_not_fit_into_memory_is_named(job, tmp_path, monkeypatch, fault):
    def loader(self, *arguments, **settings):
        raise fault

    monkeypatch.setattr(SceneData, "train_dataloader", loader)
    told = call(*job, *PLAIN, f"hydra.run.dir={tmp_path}")
    assert told == f"error: invalid data.batch_size=4: not enough memory ({fault}); set a smaller one"


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ("trainer.max_epochs=30", "scheduled for 100 steps, not 150"),  # 18 clips in batches of 4: 5 steps an epoch
        ("trainer.max_epochs=10", "has completed 20 epochs"),
        ("data.batch_size=9", "different data.batch_size"),
        ("+trainer.accumulate_grad_batches=5", "scheduled for 100 steps, not 20"),
        ("seed=5", "different data.seed"),
        ("frontend.n_bins=64", "a different frontend"),
        ("net=dcase2020_baseline", "a different net"),
    ],
)
def test_resuming_with_other_settings_is_rejected(trained, job, tmp_path, changed, told):
    directory, _ = trained
    same = [*job, "trainer.max_epochs=20", "data.val_fraction=0.25", f"data.cache_dir={tmp_path}/cache"]
    last = f"checkpoint={directory}/checkpoints/last.ckpt"
    message = str(call(*same, changed, last, f"hydra.run.dir={tmp_path}/run"))
    assert message.startswith("error: ")
    assert told in message
    if "another" in told:
        kept = [np.load(file, mmap_mode="r").ndim for file in tmp_path.glob("cache/*.npy")]
        assert kept == [1], "only the durations of the clips: no features were computed"


def test_a_finished_run_resumes_to_the_same_results(trained, job, tmp_path, capsys):
    directory, _ = trained
    last = directory / "checkpoints/last.ckpt"
    same = [*job, "trainer.max_epochs=20", "data.val_fraction=0.25"]
    assert call(*same, f"checkpoint={last}", f"hydra.run.dir={tmp_path}") is None
    assert "has completed all 20 epochs: there is no more to train, only to test" in capsys.readouterr().out
    again, before = results(tmp_path), results(directory)
    assert (again["test"], again["training"]) == (before["test"], before["training"])
    assert rows(tmp_path / "metrics.csv") == rows(directory / "metrics.csv")


def test_a_missing_compiler_is_named_before_features_are_computed(job, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    told = str(call(*job, "compile=default", f"data.cache_dir={tmp_path}/cache", f"hydra.run.dir={tmp_path}/run"))
    assert told.startswith("error: invalid compile=default: nothing can be compiled here (")
    assert "g++" in told
    assert len(told.splitlines()) == 1
    assert len(list(tmp_path.glob("cache/*.npy"))) == 1, "only the durations of the clips"


@pytest.mark.nightly
def test_a_compiled_network_learns_the_same(job, tmp_path):
    assert call(*job, *PLAIN, f"hydra.run.dir={tmp_path}/plain") is None
    done = run(*job, *PLAIN, "compile=default", f"hydra.run.dir={tmp_path}/compiled")
    if "nothing can be compiled here" in done.stderr:
        pytest.skip("torch.compile finds no C++ compiler here, or writes what it does not accept")
    assert done.returncode == 0, done.stderr
    tables = [rows(tmp_path / name / "metrics.csv") for name in ("plain", "compiled")]
    losses = [[float(row["train/loss"]) for row in table] for table in tables]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    names = [set(weights(tmp_path / name / "checkpoints/last.ckpt")) for name in ("plain", "compiled")]
    assert names[1] == names[0], "its checkpoint must load without a compiler"
