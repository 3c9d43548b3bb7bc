"""The real command line of compression."""

import os
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from command import call, digest, results, rows, run, weights
from tiny import RATE, ctrl_c
from torch import nn
from torch.ao.nn import quantized as nnq

from asc import SceneClassifier
from asc.data import SceneData
from asc.loading import read_checkpoint

FEW = ["trainer.max_epochs=3", "data.num_workers=0"]


def compress(*words: object) -> int | str | None:
    return call(*map(str, words), script="compress.py")


@pytest.fixture(scope="session")
def source(trained):
    """The float checkpoint, which must never change."""
    path = trained[0] / "checkpoints/best.ckpt"
    before = digest(path)
    yield path
    assert digest(path) == before


@pytest.fixture(scope="session")
def quantized(source, tmp_path_factory):
    """A quantized run's directory and what it printed."""
    directory = tmp_path_factory.mktemp("qat")
    done = run(f"checkpoint={source}", "phase=qat", *FEW, f"hydra.run.dir={directory}", script="compress.py")
    assert done.returncode == 0, done.stderr
    return directory, done


@pytest.fixture(scope="session")
def pruned(source, tiny, tmp_path_factory):
    """The directory of a pruned run, whose data is named although the checkpoint names it."""
    directory = tmp_path_factory.mktemp("pruned")
    data = ["data=dcase", f"data.root={tiny}", "seed=7"]
    assert compress(f"checkpoint={source}", "phase=prune", *data, *FEW, f"hydra.run.dir={directory}") is None
    return directory


@pytest.fixture(scope="session")
def both(pruned, tmp_path_factory):
    """The directory of a run that quantized the pruned network."""
    directory = tmp_path_factory.mktemp("both")
    assert compress(f"checkpoint={pruned}/pruned.ckpt", "phase=qat", *FEW, f"hydra.run.dir={directory}") is None
    return directory


def test_quantized_run_writes_the_files_of_the_contract(quantized, trained):
    directory, done = quantized
    assert done.stderr == ""
    assert max(map(len, re.sub(r"/\S+", "PATH", done.stdout).splitlines())) <= 80
    found = results(directory)
    assert found.keys() == results(trained[0]).keys()
    assert (found["stage"], found["checkpoint"]) == ("int8", str(directory / "int8.ckpt"))
    assert found["complexity"]["size_kb"] < 65
    assert found["complexity"]["file_bytes"] == (directory / "model.onnx").stat().st_size <= 72 * 1024
    assert found["training"]["epochs"] == 3 == len(rows(directory / "metrics.csv"))
    assert found["test"]["macro_accuracy"] >= results(trained[0])["test"]["macro_accuracy"] - 0.1
    assert (directory / "qat.ckpt").exists()
    content = read_checkpoint(directory / "int8.ckpt")
    assert not content.get("optimizer_states")
    assert not content.get("callbacks")
    assert (directory / "int8.ckpt").stat().st_size < 110_000


def test_metrics_are_those_of_the_integers(quantized, tiny):
    """The test clips through the checkpoint and through ONNX Runtime give the run's own confusion matrix."""
    directory, _ = quantized
    model = SceneClassifier.load_from_checkpoint(directory / "int8.ckpt")
    data = SceneData(str(tiny), sample_rate=RATE, num_workers=0, cache=False)
    data.setup()
    wave, target = (torch.cat(parts) for parts in zip(*data.loader("test"), strict=True))
    with torch.inference_mode():
        features = model.frontend(wave).half().float()  # as they are cached
        ours = model.net(features).argmax(1)
    session = onnxruntime.InferenceSession(str(directory / "model.onnx"), providers=["CPUExecutionProvider"])
    theirs = session.run(None, {"features": features.numpy()})[0].argmax(1)
    matrix = np.zeros((3, 3), int)
    np.add.at(matrix, (target.numpy(), ours.numpy()), 1)
    assert matrix.tolist() == results(directory)["test"]["confusion_matrix"]
    assert ours.tolist() == theirs.tolist()


def test_pruning_halves_each_weight_tensor(pruned):
    found = results(pruned)
    assert [path.name for path in pruned.glob("checkpoints/*")] == ["last.ckpt"]
    assert found["stage"] == "pruned"
    assert found["complexity"]["parameters"] == 63_751
    assert found["complexity"]["nonzero_parameters"] <= 63_751 - 30_224
    assert found["complexity"]["dcase2020_size_kb"] == pytest.approx(119.95, abs=0.01)
    assert found["complexity"]["file_bytes"] < 0.6 * 240_000
    for layer in SceneClassifier.load_from_checkpoint(pruned / "pruned.ckpt").net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            assert (layer.weight == 0).sum() == round(layer.weight.numel() / 2)


def test_batches_and_split_are_those_of_the_source(pruned, source):
    """The clips that the network was trained on must not become validation, by whose accuracy a sweep chooses."""
    before, after = (read_checkpoint(file)["datamodule_hyper_parameters"] for file in (source, pruned / "pruned.ckpt"))
    for name in ("batch_size", "val_fraction", "seed", "sample_rate", "channel"):
        assert after[name] == before[name], name


def test_quantizing_a_pruned_network_keeps_every_zero(pruned, both):
    assert results(both)["stage"] == "int8"
    assert 29 < results(both)["complexity"]["size_kb"] < 33  # "about 30 KB"
    before = SceneClassifier.load_from_checkpoint(pruned / "pruned.ckpt").net
    after = SceneClassifier.load_from_checkpoint(both / "int8.ckpt").net
    masks = [layer.weight == 0 for layer in before.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    integers = [layer.weight().int_repr() for layer in after.modules() if isinstance(layer, nnq.Conv2d | nnq.Linear)]
    for mask, weight in zip(masks, integers, strict=True):
        assert (weight[: mask.shape[0], : mask.shape[1]][mask] == 0).all()
    assert (both / "model.onnx").stat().st_size < 50_000


PHASES = {  # the words of each, and the files that it writes while it runs and in the end
    "qat": ([], "qat.ckpt", "int8.ckpt"),
    "prune": (["phase.amount=0.6", "phase.initial_amount=0.2"], "checkpoints/last.ckpt", "pruned.ckpt"),
    "prune_filters": ([], "checkpoints/last.ckpt", "pruned.ckpt"),
    "distill": (["seed=3"], "checkpoints/last.ckpt", "float.ckpt"),
}


@pytest.mark.parametrize(
    ("phase", "within"),
    [
        ("prune", True),
        *(pytest.param(phase, False, marks=pytest.mark.nightly) for phase in PHASES),
        pytest.param("qat", True, marks=pytest.mark.nightly),
    ],
)
def test_interrupted_phase_resumes_as_if_it_had_not_stopped(phase, within, source, tmp_path):
    """After an epoch, or within the next."""
    options, last, end = PHASES[phase]
    checkpoints = f"[{source},{source}]" if phase == "distill" else source
    words = [f"checkpoint={checkpoints}", f"phase={phase}", *options, *FEW]
    assert compress(*words, f"hydra.run.dir={tmp_path}/whole") is None
    words += ["save_minutes=1e-9"] * within
    there = f"hydra.run.dir={tmp_path}/stopped"
    said = str(compress(*words, *ctrl_c(1), there))
    unfinished = tmp_path / "stopped" / last
    assert shlex.split(said.splitlines()[-1])[2:] == [*words, *ctrl_c(1), f"resume={unfinished}", there]
    assert torch.load(unfinished, weights_only=True)["epoch"] == int(within)
    assert not (tmp_path / "stopped" / end).exists()
    assert f"resume={unfinished}" in str(compress(*words, there)), "no run begins over it"

    assert compress(*words, f"resume={unfinished}", there) is None
    runs = (tmp_path / "whole", tmp_path / "stopped")
    expected, resumed = (weights(run / last) for run in runs)
    assert expected.keys() == resumed.keys()
    assert all(torch.equal(expected[key], resumed[key]) for key in expected)
    assert digest(runs[0] / "model.onnx") == digest(runs[1] / "model.onnx")
    assert results(runs[0])["test"] == results(runs[1])["test"]
    logs = [rows(run / "metrics.csv") for run in runs]
    for log in logs:
        for row in log:
            del row["seconds"], row["clips_per_second"]
    assert logs[0] == logs[1]


@pytest.fixture(scope="module")
def interrupted(source, tmp_path_factory) -> Path:
    """The checkpoint of an interrupted pruning."""
    directory = tmp_path_factory.mktemp("interrupted")
    compress(f"checkpoint={source}", "phase=prune", *FEW, *ctrl_c(1), f"hydra.run.dir={directory}")
    return directory / "checkpoints/last.ckpt"


FAULTS = {  # the words of the command line, and a part of its error
    "another amount": (["checkpoint={float}", "phase.amount=0.7", "resume={last}"], "phase.amount"),
    "another phase": (["checkpoint={float}", "phase=qat", "resume={last}"], "qat.ckpt"),
    "a training": (["checkpoint={float}", "resume={trained}"], "resume={trained}"),
    "unfinished": (["checkpoint={last}"], "resume={last}"),
    "another optimizer": (["checkpoint={float}", "resume={last}", "optimizer.lr=1e-5"], "optimizer"),
    "too few epochs": (
        ["checkpoint={float}", "resume={last}", "trainer.max_epochs=1", "phase.ramp_epochs=0"],
        "epochs",
    ),
    "quantized already": (["checkpoint={int8}"], "quantized"),
    "half precision": (["checkpoint={float}", "trainer.precision=bf16-mixed"], "trainer.precision"),
    "another network": (["checkpoint={float}", "net=cp_mobile"], "invalid net"),
    "no checkpoint": ([], "checkpoint"),
    "other labels": (["checkpoint={float}", "data.root={other}"], "park"),
    "a run is there": (["checkpoint={float}", "hydra.run.dir={run}"], "hydra.run.dir"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_input_gets_one_sentence(fault, source, interrupted, quantized, tiny, tmp_path):
    other = Path(shutil.copytree(tiny, tmp_path / "other"))
    for file in [other / "meta.csv", *other.glob("evaluation_setup/*.csv")]:
        file.write_text(file.read_text().replace("\toutdoor", "\tpark"))
    directory = quantized[0]
    places = {"float": source, "last": interrupted, "trained": source.parent / "last.ckpt", "other": other}
    places |= {"run": directory, "int8": directory / "int8.ckpt"}
    words, said = FAULTS[fault]
    files = [interrupted, *(path for path in directory.iterdir() if path.is_file())]
    before = {path: digest(path) for path in files}
    given = [f"hydra.run.dir={tmp_path}/run", *(word.format(**places) for word in words)]
    message = str(compress("phase=prune", *FEW, *given))
    assert message.startswith("error: ")
    assert len(message.splitlines()) == 1
    assert said.format(**places) in message
    assert not list(tmp_path.glob("run/*.ckpt"))
    assert {path: digest(path) for path in before} == before


def test_training_does_not_resume_a_compression(interrupted, job, tmp_path):
    message = str(call(*job, f"checkpoint={interrupted}", f"hydra.run.dir={tmp_path}"))
    assert f"checkpoint={interrupted}" in message
    assert "compress.py" in message


def test_checkpoint_does_not_choose_where_files_are_written(source, tiny, tmp_path):
    """Without augmentation, and with data that has moved since."""
    root = Path(shutil.copytree(tiny, tmp_path / "moved"))
    content = torch.load(source, weights_only=True)
    content["datamodule_hyper_parameters"]["cache_dir"] = str(tmp_path / "chosen")
    torch.save(content, tmp_path / "foreign.ckpt")
    words = ["augmentation=[]", "trainer.max_epochs=1", "data.num_workers=0", f"data.root={root}"]
    there = f"hydra.run.dir={tmp_path}/run"
    assert compress(f"checkpoint={tmp_path}/foreign.ckpt", "phase=prune_filters", *words, there) is None
    assert {path.name for path in tmp_path.iterdir()} == {"foreign.ckpt", "moved", "run"}
    saved = read_checkpoint(tmp_path / "run/pruned.ckpt")
    assert saved["datamodule_hyper_parameters"]["cache_dir"] == os.environ["ASC_CACHE"]
    assert saved["datamodule_hyper_parameters"]["root"] == str(root)
    assert saved["hyper_parameters"]["net"]["filters"] == [16, 32, 64, 128]
    assert results(tmp_path / "run")["complexity"]["macs"] < 0.3 * results(source.parents[1])["complexity"]["macs"]


def test_student_of_two_teachers_has_its_own_network(source, tmp_path):
    words = [f"checkpoint=[{source},{source}]", "phase=distill", "net=pham_cnn", "net.filters=[8,8,8,8]", "seed=1"]
    assert compress(*words, "trainer.max_epochs=1", "data.num_workers=0", f"hydra.run.dir={tmp_path}") is None
    assert results(tmp_path)["stage"] == "float"
    student = SceneClassifier.load_from_checkpoint(tmp_path / "float.ckpt")
    assert student.hparams["net"]["filters"] == [8, 8, 8, 8]


def test_exported_file_takes_a_wave(quantized, tmp_path, capsys):
    path = tmp_path / "wave.onnx"
    words = [str(quantized[0] / "int8.ckpt"), "--frontend", "--output", str(path)]
    assert call(*words, script="asc.export") is None
    assert f"{path.stat().st_size:,} bytes" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [entry.name for entry in session.get_inputs()] == ["wave"]
