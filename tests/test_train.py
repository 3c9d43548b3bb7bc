"""The real command line, in processes of its own."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from command import call, rows, run, start, weights
from tiny import PLAIN, RATE, SETTINGS, OwnNet, ctrl_c, write_list

from asc import InputError, SceneClassifier


def test_a_run_leaves_what_the_contract_names(trained):
    directory, _ = trained
    results = json.loads((directory / "results.json").read_text())
    assert results.keys() == {"stage", "checkpoint", "labels", "test", "complexity", "training"}
    assert results["stage"] == "float"
    assert results["labels"] == ["indoor", "outdoor", "transportation"]
    matrix = np.array(results["test"]["confusion_matrix"])
    assert matrix.sum(1).tolist() == [4, 4, 4]  # two locations of two clips each
    assert results["test"]["accuracy"] == pytest.approx(matrix.trace() / 12)
    recall = matrix.diagonal() / matrix.sum(1)
    assert list(results["test"]["class_accuracy"].values()) == pytest.approx(recall)
    assert results["test"]["macro_accuracy"] == pytest.approx(recall.mean())
    cost = results["complexity"]
    assert cost["parameters"] == 63_751
    assert cost["nonzero_parameters"] <= cost["parameters"]
    assert cost["file_bytes"] == (directory / "model.onnx").stat().st_size
    assert results["training"]["epochs"] == 20
    table = rows(directory / "metrics.csv")
    assert [row["epoch"] for row in table] == [str(epoch) for epoch in range(1, 21)]
    assert {"train/loss", "val/loss", "val/acc"} <= table[0].keys()
    for picture in ("confusion_matrix.png", "training_curves.png"):
        assert (directory / picture).read_bytes().startswith(b"\x89PNG")


def test_plain_scenes_are_learned(trained):
    """Three sounds in three separate bands: anything less than nearly all of them means that training is broken."""
    directory, _ = trained
    assert json.loads((directory / "results.json").read_text())["test"]["macro_accuracy"] >= 0.9
    losses = [float(row["train/loss"]) for row in rows(directory / "metrics.csv")]
    assert losses[-1] < losses[0]


def test_a_run_prints_a_summary_and_a_table_and_nothing_else(trained):
    directory, done = trained
    assert done.stderr == ""
    lines = re.sub(r"/\S+", "PATH", done.stdout).splitlines()
    assert max(map(len, lines)) <= 80
    for word in ("128 bins", "63,751 parameters", "MACs", "macro accuracy", "log loss", "clips/s"):
        assert word in done.stdout


def test_a_checkpoint_alone_classifies_files_in_a_fresh_process(trained, tiny, tmp_path):
    directory, _ = trained
    checkpoint = shutil.copy(directory / "checkpoints/best.ckpt", tmp_path)
    program = (
        "import json, sys\n"
        "from asc import SceneClassifier\n"
        "model = SceneClassifier.load_from_checkpoint(sys.argv[1])\n"
        "print(json.dumps([model.classify(file) for file in sys.argv[2:]]))\n"
    )
    tests = rows_of_list(tiny / "evaluation_setup/fold1_evaluate.csv")
    process = start(program, checkpoint, *(str(tiny / name) for name, _ in tests), script="-c")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    answers = json.loads(out)
    right = [max(answer, key=answer.get) == label for answer, (_, label) in zip(answers, tests, strict=True)]
    results = json.loads((directory / "results.json").read_text())
    assert np.mean(right) == pytest.approx(results["test"]["accuracy"])
    log_loss = -np.mean([np.log(answer[label]) for answer, (_, label) in zip(answers, tests, strict=True)])
    assert log_loss == pytest.approx(results["test"]["log_loss"], abs=0.01)  # the run's features were float16


def rows_of_list(file: Path) -> list[list[str]]:
    return [line.split("\t") for line in file.read_text().splitlines()[1:]]


@pytest.mark.slow
def test_an_interrupted_run_resumes_as_if_it_had_not_stopped(trained, job, tmp_path, capsys):
    directory, _ = trained
    same = [*job, "trainer.max_epochs=20", "data.val_fraction=0.25"]
    said = str(call(*same, *ctrl_c(3), f"hydra.run.dir={tmp_path}/first"))
    last = tmp_path / "first/checkpoints/last.ckpt"
    assert "Traceback" not in capsys.readouterr().err
    assert f"checkpoint={last}" in said
    assert torch.load(last, weights_only=True)["epoch"] == 2

    assert call(*same, f"checkpoint={last}", f"hydra.run.dir={tmp_path}/second") is None
    for name in ("last.ckpt", "best.ckpt"):
        straight = weights(directory / "checkpoints" / name)
        resumed = weights(tmp_path / "second/checkpoints" / name)
        assert all(torch.equal(straight[key], resumed[key]) for key in straight)
    losses = [[row["train/loss"] for row in rows(d / "metrics.csv")] for d in (directory, tmp_path / "second")]
    assert losses[0] == losses[1]


def test_a_sweep_runs_every_combination(job, tmp_path):
    assert (
        call("-m", *job, "seed=0,1", "~callbacks.spec_augment", "logger=tensorboard", f"hydra.sweep.dir={tmp_path}")
        is None
    )
    assert {path.parent.name for path in tmp_path.glob("*/results.json")} == {"0", "1"}
    assert len(list(tmp_path.glob("*/tensorboard/events*"))) >= 2
    first, second = (weights(tmp_path / job / "checkpoints/last.ckpt") for job in "01")
    assert not torch.equal(first["net.dense.weight"], second["net.dense.weight"])


def test_help_names_the_groups_and_cfg_prints_the_settings(capsys):
    call("--help")
    out = capsys.readouterr().out
    for group in ("data:", "frontend:", "net:", "experiment:", "table3_baseline", "tau2020_3class"):
        assert group in out
    call("--cfg", "job", "experiment=table3_cnn")
    assert "max_epochs: 100" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["train.py", "optimizer.learning_rate=1"],
        ["compress.py", "--help"],
        ["-m", "asc.report", "--help"],
    ],
    ids=" ".join,
)
def test_help_and_mistyped_settings_come_without_torch(words):
    """Which takes seconds to import."""
    done = run("importtime", *words, script="-X")
    assert bool(done.stdout) == ("--help" in words) != ("error: " in done.stderr)
    imported = re.findall(r"^import time: .*\| +(\S+)$", done.stderr, flags=re.MULTILINE)
    assert "argparse" in imported
    assert "torch" not in imported


def damage(root: Path, fault: str) -> list[str]:
    """Spoil the dataset at `root` in one way; return the arguments that this takes."""
    train = root / "evaluation_setup/fold1_train.csv"
    clip = root / "audio/outdoor-oslo-100-0-a.wav"
    whole = clip.read_bytes()
    match fault:
        case "empty list":
            train.write_text("")
        case "commas":
            train.write_text(train.read_text().replace("\t", ","))
        case "text as wav":
            clip.write_text("this is no sound\n")
        case "truncated":
            clip.write_bytes(whole[: len(whole) // 2])
        case "zero length":
            soundfile.write(clip, np.zeros(0), RATE)
        case "nan":
            soundfile.write(clip, np.full(RATE * 2, np.nan, np.float32), RATE, subtype="FLOAT")
        case "shorter than a window":
            return ["data.clip_seconds=0.1"]
        case "clips of a moment":
            return ["data.clip_seconds=0.01"]
        case "unknown label":
            return ["data.labels=[indoor,transportation]"]
        case "missing file":
            clip.unlink()
        case "listed twice":
            lines = train.read_text().splitlines()
            train.write_text("\n".join([*lines, lines[1]]) + "\n")
        case "shared location":
            meta = root / "meta.csv"
            meta.write_text(meta.read_text().replace("oslo-5\t", "oslo-0\t"))
        case "no directory":
            return [f"data.root={root}/nowhere"]
        case "no root":
            return ["data.root=???"]
        case "mistyped setting":
            return ["optimizer.learning_rate=1"]
        case "wrong kind of setting":
            return ["optimizer.lr=fast"]
        case "clip of a moment":
            soundfile.write(clip, np.zeros(500), RATE)
        case "one label":
            return ["data.labels=[indoor]"]
        case "contrary label":
            train.write_text(train.read_text().replace("-a.wav\toutdoor", "-a.wav\tindoor", 1))
        case "fraction of a clip":
            return ["data.batch_size=2.5"]
        case "no hop":
            return ["frontend.hop_length=0"]
        case "above half the rate":
            return ["frontend.f_max=9000"]
        case "one dropout":
            return ["net.dropouts=[0.1]"]
        case "seed in words":
            return ["seed=abc"]
        case "half precision":
            return ["trainer.precision=bf16-true"]
        case "no best checkpoint":
            return ["~callbacks.checkpoint"]
        case "real data as synthetic":
            return ["data=synthetic"]
        case "checkpoint of nowhere":
            return ["checkpoint=nowhere.ckpt"]
        case "diverging rate":
            return ["optimizer._target_=torch.optim.SGD", "optimizer.lr=100"]
        case "unknown compiler":
            return ["compile=quick"]
        case "no epochs":
            return ["trainer.max_epochs=0"]
        case "cache in a file":
            return [f"data.cache_dir={train}"]
        case "not a checkpoint":
            return [f"checkpoint={train}"]
        case "run there already":
            (root / "run/checkpoints").mkdir(parents=True)
            (root / "run/checkpoints/last.ckpt").touch()
    return []


FAULTS = {  # the fault, and words that its sentence must hold
    "empty list": ["fold1_train.csv", "empty"],
    "commas": ["fold1_train.csv", "tabs"],
    "text as wav": ["outdoor-oslo-100-0-a.wav", "not a sound file"],
    "truncated": ["outdoor-oslo-100-0-a.wav", "cut off"],
    "zero length": ["outdoor-oslo-100-0-a.wav", "0 samples"],
    "nan": ["outdoor-oslo-100-0-a.wav", "NaN"],
    "shorter than a window": ["1600 samples", "window"],
    "unknown label": ["12", "unknown label", "outdoor"],
    "missing file": ["1 of 24", "outdoor-oslo-100-0-a.wav", "data.missing=skip"],
    "listed twice": ["1", "indoor-oslo-0-0-a.wav", "more than once"],
    "shared location": ["locations in both train and test: 1", "oslo-0", "train"],
    "no directory": ["nowhere", "not a directory"],
    "no root": ["data.root"],
    "mistyped setting": ["learning_rate"],
    "wrong kind of setting": ["optimizer.lr=fast", "expected a number"],
    "clip of a moment": ["outdoor-oslo-100-0-a.wav", "shorter than one window"],
    "clips of a moment": ["set data.clip_seconds to at least 0.128"],
    "one label": ["two labels"],
    "contrary label": ["fold1_train.csv", "meta.csv", "1 ("],
    "fraction of a clip": ["data.batch_size=2.5", "expected an integer"],
    "no hop": ["frontend.hop_length=0", "expected at least 1"],
    "above half the rate": ["frontend.f_max=9000", "8000"],
    "one dropout": ["net.dropouts=[0.1]", "at least 4 of them"],
    "seed in words": ["seed=abc"],
    "half precision": ["trainer.precision=bf16-true", "bf16-mixed"],
    "no best checkpoint": ["callbacks.checkpoint", "best.ckpt"],
    "real data as synthetic": ["data=dcase"],
    "checkpoint of nowhere": ["nowhere.ckpt", "does not exist"],
    "diverging rate": ["diverged in epoch", "not finite", "optimizer.lr"],
    "unknown compiler": ["compile=quick", "reduce-overhead"],
    "no epochs": ["trainer.max_epochs=0"],
    "cache in a file": ["data.cache_dir=", "fold1_train.csv"],
    "not a checkpoint": ["fold1_train.csv", "not a checkpoint"],
    "run there already": ["run/checkpoints/last.ckpt", "hydra.run.dir"],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_input_gets_one_sentence(tiny, tmp_path, fault):
    """In this process, through the same entry point, since each start costs seconds of imports."""
    root = Path(shutil.copytree(tiny, tmp_path / "data"))
    words = ["data=dcase", f"data.root={root}", f"data.cache_dir={root}/cache", *SETTINGS, *damage(root, fault)]
    message = str(call(*words, f"hydra.run.dir={root}/run"))
    assert message.startswith("error: ")
    assert len(message.splitlines()) == 1
    for word in FAULTS[fault]:
        assert word in message
    assert not list(root.glob("cache/*.tmp")), "a half-written file was left behind"
    assert not list(root.glob("run/*.json"))


def test_bad_input_ends_the_process_with_its_sentence_on_stderr(tiny, tmp_path):
    done = run("data=dcase", f"data.root={tmp_path}/nowhere", f"hydra.run.dir={tmp_path}/run")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: data.root={tmp_path}/nowhere is not a directory")
    assert len(done.stderr.splitlines()) == 1


def test_missing_files_can_be_skipped(tiny, tmp_path, capsys):
    root = Path(shutil.copytree(tiny, tmp_path / "some"))
    (root / "audio/outdoor-oslo-100-0-a.wav").unlink()
    (root / "audio/indoor-oslo-4-0-a.wav").unlink()
    words = ["data=dcase", f"data.root={root}", f"data.cache_dir={root}/cache", *SETTINGS, f"hydra.run.dir={root}/run"]
    assert call(*words, "data.missing=skip", "trainer.max_epochs=1") is None
    told = capsys.readouterr().err
    assert "1 of 24 audio files are missing (audio/outdoor-oslo-100-0-a.wav): skipped" in told
    assert "1 of 12 audio files are missing (audio/indoor-oslo-4-0-a.wav): skipped" in told
    results = json.loads((root / "run/results.json").read_text())
    assert np.sum(results["test"]["confusion_matrix"]) == 11


def test_resuming_with_another_network_is_refused(trained, job, tmp_path):
    directory, _ = trained
    last = directory / "checkpoints/last.ckpt"
    message = str(call(*job, "net=dcase2020_baseline", f"checkpoint={last}", f"hydra.run.dir={tmp_path}"))
    assert message.startswith(f"error: checkpoint={last} was trained with another net")
    assert len(message.splitlines()) == 1


def test_a_run_that_was_killed_before_its_test_can_be_finished(trained, job, tmp_path):
    directory, _ = trained
    last = directory / "checkpoints/last.ckpt"
    same = [*job, "trainer.max_epochs=20", "data.val_fraction=0.25"]
    assert call(*same, f"checkpoint={last}", f"hydra.run.dir={tmp_path}/again") is None
    again, before = (json.loads((d / "results.json").read_text()) for d in (tmp_path / "again", directory))
    assert again["test"] == before["test"]
    assert again["training"] == before["training"]
    assert rows(tmp_path / "again/metrics.csv") == rows(directory / "metrics.csv")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ("trainer.max_epochs=30", "laid out for 100 steps, not 150"),  # 18 clips in batches of 4: 5 steps an epoch
        ("trainer.max_epochs=10", "has done 20 epochs"),
        ("data.batch_size=9", "other data.batch_size"),
        ("+trainer.accumulate_grad_batches=5", "laid out for 100 steps, not 20"),
        ("seed=5", "other data.seed"),
        ("frontend.n_bins=64", "another frontend"),
    ],
)
def test_resuming_with_other_settings_is_refused(trained, job, tmp_path, changed, said):
    directory, _ = trained
    same = [*job, "trainer.max_epochs=20", "data.val_fraction=0.25"]
    message = str(call(*same, changed, f"checkpoint={directory}/checkpoints/last.ckpt", f"hydra.run.dir={tmp_path}"))
    assert message.startswith("error: ")
    assert said in message


def test_resuming_with_another_frontend_is_refused_before_its_features_are_computed(trained, job, tmp_path):
    directory, _ = trained
    same = [*job, "trainer.max_epochs=20", "data.val_fraction=0.25", f"data.cache_dir={tmp_path}/cache"]
    words = ["frontend.n_bins=64", f"checkpoint={directory}/checkpoints/last.ckpt", f"hydra.run.dir={tmp_path}/run"]
    assert "another frontend" in str(call(*same, *words))
    kept = [np.load(file, mmap_mode="r")["values"].ndim for file in tmp_path.glob("cache/*.npy")]
    assert kept == [2], "only the clips' lengths"


def test_a_network_of_ones_own_is_trained_tested_and_loaded_on_trust(job, tmp_path):
    assert call(*job, "net._target_=tiny.OwnNet", "trainer.max_epochs=1", f"hydra.run.dir={tmp_path}") is None
    assert (tmp_path / "results.json").exists()
    checkpoint = tmp_path / "checkpoints/best.ckpt"
    with pytest.raises(InputError, match=r"tiny.OwnNet.*trusted"):
        SceneClassifier.load_from_checkpoint(checkpoint)
    assert isinstance(SceneClassifier.load_from_checkpoint(checkpoint, trusted=["tiny"]).net, OwnNet)


@pytest.mark.slow
def test_a_compiled_network_learns_the_same(job, tmp_path):
    assert call(*job, *PLAIN, f"hydra.run.dir={tmp_path}/plain") is None
    done = run(*job, *PLAIN, "compile=default", f"hydra.run.dir={tmp_path}/compiled")
    if any(fault in done.stderr for fault in ("CppCompileError", "InvalidCxxCompiler")):
        pytest.skip("torch.compile finds no C++ compiler here, or writes what it does not accept")
    assert done.returncode == 0, done.stderr
    tables = [rows(tmp_path / name / "metrics.csv") for name in ("plain", "compiled")]
    losses = [[float(row["train/loss"]) for row in table] for table in tables]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    names = [set(weights(tmp_path / name / "checkpoints/last.ckpt")) for name in ("plain", "compiled")]
    assert names[1] == names[0], "its checkpoint must load without a compiler"


def test_a_list_with_crlf_trains_the_same(tiny, job, tmp_path):
    root = Path(shutil.copytree(tiny, tmp_path / "crlf"))
    for name in ("fold1_train.csv", "fold1_evaluate.csv"):
        file = root / "evaluation_setup" / name
        write_list(file, "filename\tscene_label\r", [f"{row}\r" for row in file.read_text().splitlines()[1:]])
    assert call(*job, f"data.root={root}", "trainer.max_epochs=1", f"hydra.run.dir={tmp_path}/run") is None
