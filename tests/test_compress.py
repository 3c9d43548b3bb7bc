"""The real command line of compression, in processes of its own and in this one."""

import functools
import os
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from classifiers import HERE
from command import call, digest, results, rows, run, start, weights
from tiny import PLAIN, RATE, SECONDS, ctrl_c
from torch import nn
from torch.ao.nn import quantized as nnq

from asc import SceneClassifier
from asc.data import SceneData
from asc.loading import read_checkpoint

FEW = ["trainer.max_epochs=3", "data.num_workers=0"]
SAME = "import sys, torch; from asc import SceneClassifier; torch.manual_seed(0); torch.set_num_threads(1); " + (
    f"wave = 0.1 * torch.randn(4, {RATE * SECONDS})\n"
    "with torch.inference_mode():\n"
    "    torch.save({name: SceneClassifier.load_from_checkpoint(name)(wave) for name in sys.argv[2:]}, sys.argv[1])\n"
)


def compress(*words: str) -> int | str | None:
    return call(*words, script="compress.py")


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
def pruned(source, tmp_path_factory):
    """A pruned run's directory."""
    directory = tmp_path_factory.mktemp("pruned")
    words = ["phase=prune", "phase.ramp_epochs=1", *FEW, f"hydra.run.dir={directory}"]
    assert compress(f"checkpoint={source}", *words) is None
    return directory


@pytest.fixture(scope="session")
def both(pruned, tmp_path_factory):
    """The directory of a run that quantized the pruned network."""
    directory = tmp_path_factory.mktemp("both")
    assert compress(f"checkpoint={pruned}/pruned.ckpt", "phase=qat", *FEW, f"hydra.run.dir={directory}") is None
    return directory


def test_a_quantized_run_leaves_what_the_contract_names(quantized, trained):
    directory, done = quantized
    assert done.stderr == ""
    assert max(map(len, re.sub(r"/\S+", "PATH", done.stdout).splitlines())) <= 80
    found = results(directory)
    assert found.keys() == results(trained[0]).keys()
    assert found["stage"] == "int8"
    assert found["checkpoint"] == str(directory / "int8.ckpt")
    assert np.sum(found["test"]["confusion_matrix"]) == 12
    assert found["complexity"]["size_kb"] < 65
    assert found["complexity"]["file_bytes"] == (directory / "model.onnx").stat().st_size <= 72 * 1024
    assert found["training"]["epochs"] == 3 == len(rows(directory / "metrics.csv"))
    assert found["test"]["macro_accuracy"] >= results(trained[0])["test"]["macro_accuracy"] - 0.1
    assert (directory / "qat.ckpt").exists()


def test_int8_ckpt_holds_inference_weights_only(quantized):
    content = read_checkpoint(quantized[0] / "int8.ckpt")
    assert not content.get("optimizer_states")
    assert not content.get("callbacks")
    net = [value for key, value in content["state_dict"].items() if key.startswith("net.") and torch.is_tensor(value)]
    assert sum(value.dtype == torch.qint8 for value in net) == 4  # the dense layer keeps its kernel in a tuple
    assert (quantized[0] / "int8.ckpt").stat().st_size < 110_000


def test_the_figures_are_those_of_the_integers(quantized, tiny):
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


def test_pruning_halves_the_kernels(pruned):
    found = results(pruned)
    names = {path.name for path in pruned.iterdir()}
    pictures, graphs = {"confusion_matrix.png", "training_curves.png"}, {"frontend.onnx", "model.onnx"}
    tables = {"metrics.csv", "predictions.csv", "results.json"}
    assert names == {".hydra", "checkpoints", "pruned.ckpt", *pictures, *graphs, *tables}
    assert [path.name for path in pruned.glob("checkpoints/*")] == ["last.ckpt"]
    assert found["stage"] == "pruned"
    assert found["complexity"]["parameters"] == 63_751
    assert found["complexity"]["nonzero_parameters"] <= 63_751 - 30_224
    assert found["complexity"]["dcase2020_size_kb"] == pytest.approx(119.95, abs=0.01)
    assert found["complexity"]["file_bytes"] < 0.6 * 240_000
    for layer in SceneClassifier.load_from_checkpoint(pruned / "pruned.ckpt").net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            assert (layer.weight == 0).sum() == round(layer.weight.numel() / 2)


def test_quantizing_a_pruned_network_keeps_every_zero(pruned, both):
    assert results(both)["stage"] == "int8"
    assert 29 < results(both)["complexity"]["size_kb"] < 33  # "about 30 KB"
    before = SceneClassifier.load_from_checkpoint(pruned / "pruned.ckpt").net
    after = SceneClassifier.load_from_checkpoint(both / "int8.ckpt").net
    masks = [layer.weight == 0 for layer in before.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    integers = [layer.weight().int_repr() for layer in after.modules() if isinstance(layer, nnq.Conv2d | nnq.Linear)]
    for mask, kernel in zip(masks, integers, strict=True):
        assert (kernel[: mask.shape[0], : mask.shape[1]][mask] == 0).all()
    assert (both / "model.onnx").stat().st_size < 50_000


def test_removed_filters_make_the_network_small(source, tmp_path):
    words = [f"checkpoint={source}", "phase=prune_filters", "phase.amount=0.5", *FEW, f"hydra.run.dir={tmp_path}"]
    assert compress(*words) is None
    found = results(tmp_path)
    assert found["stage"] == "pruned"
    assert found["complexity"]["macs"] < 0.3 * results(source.parents[1])["complexity"]["macs"]
    model = SceneClassifier.load_from_checkpoint(tmp_path / "pruned.ckpt")
    assert model.hparams["net"]["filters"] == [16, 32, 64, 128]


def test_every_stage_gives_the_same_logits_in_a_fresh_process(source, pruned, quantized, both, tmp_path):
    files = [source, pruned / "pruned.ckpt", quantized[0] / "qat.ckpt", quantized[0] / "int8.ckpt", both / "int8.ckpt"]
    process = start(SAME, str(tmp_path / "answers"), *map(str, files), script="-c")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert err == ""
    there = torch.load(tmp_path / "answers")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    wave = 0.1 * torch.randn(4, RATE * SECONDS)
    try:
        for file in map(str, files):
            with torch.inference_mode():
                here = SceneClassifier.load_from_checkpoint(file)(wave)
            assert torch.equal(there[file], here)
    finally:
        torch.set_num_threads(threads)


PHASES = {  # the words of each, and the files that it leaves while it runs and in the end
    "qat": ([], "qat.ckpt", "int8.ckpt"),
    "prune": (["phase.amount=0.6", "phase.initial_amount=0.2"], "checkpoints/last.ckpt", "pruned.ckpt"),
    "prune_filters": ([], "checkpoints/last.ckpt", "pruned.ckpt"),
    "distill": (["seed=3"], "checkpoints/last.ckpt", "float.ckpt"),
}


@pytest.fixture(scope="module")
def straight(source, tmp_path_factory):
    """The words of a phase and the directory of its run without a stop, once for each phase."""

    @functools.cache
    def run_of(phase: str) -> tuple[list[str], Path]:
        checkpoints = f"[{source},{source}]" if phase == "distill" else source
        words = [f"checkpoint={checkpoints}", f"phase={phase}", *PHASES[phase][0], *FEW]
        directory = tmp_path_factory.mktemp(f"straight-{phase}")
        assert compress(*words, f"hydra.run.dir={directory}") is None
        return words, directory

    return run_of


@pytest.mark.parametrize(("phase", "within"), [*((phase, False) for phase in PHASES), ("qat", True), ("prune", True)])
def test_an_interrupted_phase_resumes_as_if_it_had_not_stopped(phase, within, straight, tmp_path):
    """After an epoch, or within the next."""
    words, whole = straight(phase)
    _, last, end = PHASES[phase]
    words = [*words, *(["save_minutes=1e-9"] if within else [])]
    there = f"hydra.run.dir={tmp_path}/stopped"
    said = str(compress(*words, *ctrl_c(1), there))
    unfinished = tmp_path / "stopped" / last
    assert shlex.split(said.splitlines()[-1])[2:] == [*words, *ctrl_c(1), f"resume={unfinished}", there]
    assert torch.load(unfinished, weights_only=True)["epoch"] == int(within)
    assert not (tmp_path / "stopped" / end).exists()
    assert f"resume={unfinished}" in str(compress(*words, there)), "no run begins over it"

    assert compress(*words, f"resume={unfinished}", there) is None
    runs = (whole, tmp_path / "stopped")
    expected, resumed = (weights(run / last) for run in runs)
    assert expected.keys() == resumed.keys()
    assert all(torch.equal(expected[key], resumed[key]) for key in expected)
    assert digest(whole / "model.onnx") == digest(tmp_path / "stopped/model.onnx")
    assert results(whole)["test"] == results(tmp_path / "stopped")["test"]
    logs = [rows(run / "metrics.csv") for run in runs]
    assert without_times(logs[0]) == without_times(logs[1])


def without_times(log: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{name: value for name, value in row.items() if name not in ("seconds", "clips_per_second")} for row in log]


@pytest.fixture(scope="module")
def interrupted(source, tmp_path_factory) -> Path:
    """What an interrupted pruning has saved."""
    directory = tmp_path_factory.mktemp("interrupted")
    compress(f"checkpoint={source}", "phase=prune", *FEW, *ctrl_c(1), f"hydra.run.dir={directory}")
    return directory / "checkpoints/last.ckpt"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["checkpoint={float}", "phase.amount=0.7", "resume={last}"], "run with another phase.amount: resume with"),
        (["checkpoint={float}", "phase=qat", "resume={last}"], "not of a run of this phase: give its qat.ckpt"),
        (["checkpoint={float}", "resume={trained}"], "not of a run of this phase: give its checkpoints/last.ckpt"),
        (["checkpoint={float}", "resume={float}"], "not of a run of this phase"),
        (["checkpoint={float}", "resume=nowhere.ckpt"], "nowhere.ckpt does not exist"),
        (["checkpoint={last}"], "is of a run that was not finished: give its finished checkpoint"),
        (["checkpoint={last}", "phase=qat"], "and to resume it, give resume={last}"),
        (["checkpoint={float}", "resume={last}", "optimizer.lr=1e-5"], "was trained with another optimizer"),
        (["checkpoint={float}", "resume={last}", "data.batch_size=9"], "other data.batch_size"),
    ],
)
def test_what_cannot_be_resumed_is_refused(words, said, interrupted, source, tmp_path):
    before = digest(interrupted)
    places = {"float": source, "last": interrupted, "trained": source.parent / "last.ckpt"}
    words = ["phase=prune", *FEW, *(word.format(**places) for word in words), f"hydra.run.dir={tmp_path}"]
    message = str(compress(*words))
    assert message.startswith("error: ")
    assert len(message.splitlines()) == 1
    assert said.format(**places) in message
    assert digest(interrupted) == before


def test_a_sweep_over_the_amount(source, tmp_path):
    words = ["-m", f"checkpoint={source}", "phase=prune", "phase.amount=0.3,0.9", "trainer.max_epochs=1"]
    assert compress(*words, "phase.schedule=constant", f"hydra.sweep.dir={tmp_path}") is None
    few, many = (results(tmp_path / job)["complexity"]["nonzero_parameters"] for job in "01")
    assert few - many == pytest.approx(0.6 * 60_448, abs=100)  # and running means that are zero by chance


def test_the_official_baseline_is_quantized_too(job, tmp_path):
    words = [*job, "net=dcase2020_baseline", "frontend=log_mel", "trainer.max_epochs=1", f"hydra.run.dir={tmp_path}/f"]
    assert call(*words) is None
    for fold in ("true", "false"):
        words = ["phase=qat", f"phase.fold={fold}", *FEW, f"hydra.run.dir={tmp_path}/{fold}"]
        assert compress(f"checkpoint={tmp_path}/f/checkpoints/best.ckpt", *words) is None
        assert results(tmp_path / fold)["complexity"]["parameters"] == 115_219


@pytest.mark.parametrize("engine", [engine for engine in HERE if engine != "onednn"])
def test_every_engine_there_is(engine, source, tmp_path):
    words = ["phase=qat", f"phase.engine={engine}", *FEW, f"hydra.run.dir={tmp_path}"]
    assert compress(f"checkpoint={source}", *words) is None
    assert results(tmp_path)["test"]["macro_accuracy"] >= 0.8


def test_data_that_has_moved_is_named(source, tiny, tmp_path):
    root = Path(shutil.copytree(tiny, tmp_path / "moved"))
    words = [f"checkpoint={source}", "phase=prune", "trainer.max_epochs=1", f"data.root={root}"]
    assert compress(*words, "data.cache=false", f"hydra.run.dir={tmp_path}/run") is None
    content = torch.load(tmp_path / "run/pruned.ckpt", weights_only=True)
    assert content["datamodule_hyper_parameters"]["root"] == str(root)


def test_a_checkpoint_does_not_choose_where_files_are_written(source, tmp_path):
    content = torch.load(source, weights_only=True)
    content["datamodule_hyper_parameters"]["cache_dir"] = str(tmp_path / "chosen")
    torch.save(content, tmp_path / "foreign.ckpt")
    words = [f"checkpoint={tmp_path}/foreign.ckpt", "phase=prune", "phase.ramp_epochs=0", "trainer.max_epochs=1"]
    assert compress(*words, "data.num_workers=0", f"hydra.run.dir={tmp_path}/run") is None
    assert {path.name for path in tmp_path.iterdir()} == {"foreign.ckpt", "run"}
    saved = read_checkpoint(tmp_path / "run/pruned.ckpt")["datamodule_hyper_parameters"]
    assert saved["cache_dir"] == os.environ["ASC_CACHE"]


def test_fine_tuning_needs_no_augmentation(source, tmp_path):
    assert compress(f"checkpoint={source}", "callbacks=[]", "trainer.max_epochs=1", f"hydra.run.dir={tmp_path}") is None
    assert results(tmp_path)["stage"] == "int8"


FAULTS = {  # the words of the command line, and those that its sentence must hold
    "quantized already": (["checkpoint={int8}", "phase=qat"], ["quantized already", "best.ckpt"]),
    "int8 to prune": (["checkpoint={int8}", "phase=prune"], ["quantized already"]),
    "qat to prune": (["checkpoint={qat}", "phase=prune_filters"], ["not finished", "resume="]),
    "amount of all": (["checkpoint={float}", "phase=prune", "phase.amount=1"], ["phase.amount=1", "less than 1"]),
    "amount below 0": (["checkpoint={float}", "phase=prune_filters", "phase.amount=-0.5"], ["phase.amount=-0.5"]),
    "no such engine": (["checkpoint={float}", "phase=qat", "phase.engine=tpu"], ["phase.engine=tpu", "qnnpack"]),
    "other engine": (["checkpoint={float}", "resume={qat}", "phase.engine=qnnpack"], ["another phase.engine"]),
    "too few epochs": (["checkpoint={float}", "resume={qat}", "trainer.max_epochs=1"], ["has done 3 epochs"]),
    "half precision": (["checkpoint={float}", "phase=qat", "trainer.precision=bf16-mixed"], ["trainer.precision"]),
    "spawned": (["checkpoint={float}", "phase=qat", "+trainer.strategy=ddp_spawn"], ["trainer.strategy=ddp_spawn"]),
    "no checkpoint": (["phase=qat"], ["checkpoint is not set"]),
    "a directory": (["checkpoint={run}", "phase=qat"], ["is a directory", "best.ckpt"]),
    "checkpoint of nowhere": (["checkpoint=nowhere.ckpt", "phase=qat"], ["nowhere.ckpt", "does not exist"]),
    "other labels": (["checkpoint={float}", "phase=qat", "data.root={other}"], ["labels", "park", "outdoor"]),
    "data gone": (["checkpoint={float}", "phase=qat", "data.root={other}/gone"], ["gone", "not a directory"]),
    "a run is there": (
        ["checkpoint={float}", "phase=qat", "hydra.run.dir={run}"],
        ["holds a run: set another"],
    ),
    "a training is there": (["checkpoint={float}", "phase=prune", "hydra.run.dir={trained}"], ["holds a run"]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_input_gets_one_sentence(fault, source, quantized, tiny, tmp_path):
    other = Path(shutil.copytree(tiny, tmp_path / "other"))
    for file in [other / "meta.csv", *other.glob("evaluation_setup/*.csv")]:
        file.write_text(file.read_text().replace("\toutdoor", "\tpark"))
    directory = quantized[0]
    places = {"float": source, "qat": directory / "qat.ckpt", "int8": directory / "int8.ckpt", "other": other}
    places |= {"run": directory, "trained": source.parents[1]}
    words, said = FAULTS[fault]
    before = {path: digest(path) for path in [*directory.iterdir(), *source.parents[1].glob("*.*")] if path.is_file()}
    message = str(
        compress("trainer.max_epochs=3", f"hydra.run.dir={tmp_path}/run", *(w.format(**places) for w in words))
    )
    assert message.startswith("error: ")
    assert len(message.splitlines()) == 1
    for word in said:
        assert word.format(**places) in message
    assert not list(tmp_path.glob("run/*.ckpt"))
    assert {path: digest(path) for path in before} == before


@pytest.mark.parametrize("choice", [[], ["data=dcase"]], ids=["remembered", "named"])
def test_the_checkpoints_batches_and_split_are_used_whatever_data_is_named(choice, job, tiny, tmp_path):
    """The clips that the network was trained on must not become validation, by whose accuracy a sweep chooses."""
    words = [*PLAIN, "net={_target_:asc.nets.PhamCNN}", "seed=7", "data.val_fraction=0.25", "trainer.max_epochs=1"]
    assert call(*job, *words, f"hydra.run.dir={tmp_path}/float") is None
    checkpoint = tmp_path / "float/checkpoints/best.ckpt"
    given = [*choice, f"data.root={tiny}", f"data.cache_dir={tmp_path}/cache", "data.num_workers=0"]
    words = ["phase=prune", "phase.ramp_epochs=0", *given, "trainer.max_epochs=1", f"hydra.run.dir={tmp_path}/pruned"]
    assert compress(f"checkpoint={checkpoint}", *words) is None
    before, after = (
        torch.load(file, weights_only=True)["datamodule_hyper_parameters"]
        for file in (checkpoint, tmp_path / "pruned/pruned.ckpt")
    )
    for name in ("batch_size", "val_fraction", "seed", "sample_rate", "channel"):
        assert after[name] == before[name], name
    splits = []
    for settings in (before, after):
        data = SceneData(**settings)
        data.setup()
        splits.append(data.clips)
    assert splits[0] == splits[1]


def test_a_training_does_not_go_on_from_a_compression(interrupted, job, tmp_path):
    message = str(call(*job, f"checkpoint={interrupted}", f"hydra.run.dir={tmp_path}"))
    assert f"checkpoint={interrupted} is of a run of compress.py: resume it by this command" in message


def test_a_training_is_refused_in_the_directory_of_a_compressed_network(pruned, job):
    before = {path: digest(path) for path in pruned.rglob("*") if path.is_file() and ".hydra" not in path.parts}
    message = str(call(*job, f"hydra.run.dir={pruned}"))
    assert message == f"error: {pruned} holds a run: set another hydra.run.dir"
    assert {path: digest(path) for path in before} == before


def test_the_export_command_writes_a_file_that_takes_a_wave(quantized, tmp_path, capsys):
    path = tmp_path / "wave.onnx"
    words = [str(quantized[0] / "int8.ckpt"), "--frontend", "--output", str(path)]
    assert call(*words, script="asc.export") is None
    assert f"{path.stat().st_size:,} bytes" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [entry.name for entry in session.get_inputs()] == ["wave"]
