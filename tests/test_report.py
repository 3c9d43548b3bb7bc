"""Tables, pictures and times of finished runs."""

import itertools
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from scipy.stats import ttest_rel
from tiny import RATE

from asc import InputError, SceneClassifier
from asc.nets import PhamCNN
from asc.report.__main__ import main
from asc.report.plot import accuracy_plot, pareto_front, plot_accuracy_over_size, size
from asc.report.runs import System, Task, differing, find_runs, group, read_run
from asc.report.table import ROUNDS, compare, measure_latency, report, speedups, systems_table

LABELS = ["indoor", "outdoor", "transportation"]
CNN = {"_target_": "asc.nets.PhamCNN"}
BASELINE = {"_target_": "asc.nets.Dcase2020Baseline"}
INT8 = {"stage": "int8", "quantization": {"engine": "qnnpack", "weight_bits": 8, "fold_norms": True, "unfoldable": []}}


def pruned(zeros: int) -> dict:
    """Arguments of `write_run` for a network with so many of 1000 weights zero."""
    return {"stage": "pruned", "nonzero_parameters": 1000 - zeros, "size_kb": 4 - zeros / 250}


def write_run(
    directory: Path,
    accuracy: float = 0.5,
    stage: str = "float",
    labels: list[str] = LABELS,
    net: dict | None = None,
    quantization: dict | None = None,
    checkpoint: str = "made.ckpt",
    data: dict | None = None,
    config: dict | None = None,
    overrides: Sequence[str] = (),
    **costs: float,
) -> Path:
    """Write the results.json of a run and, with `net`, the hyperparameters of a checkpoint without weights.

    Args:
        data: hyperparameters of the dataset, of the checkpoint, too.
        config: content of .hydra/config.yaml.
        overrides: content of .hydra/overrides.yaml.
    """
    directory.mkdir(parents=True)
    cost = {"parameters": 1000, "nonzero_parameters": 1000, "size_kb": 4.0, "dcase2020_size_kb": 3.5}
    results = {
        "stage": stage,
        "checkpoint": checkpoint,
        "labels": labels,
        "test": {
            "accuracy": accuracy,
            "macro_accuracy": accuracy + 0.1,
            "log_loss": 1.0,
            "class_accuracy": dict.fromkeys(labels, accuracy),
            "confusion_matrix": np.eye(len(labels), dtype=int).tolist(),
        },
        "complexity": {**cost, "macs": 162_972_416, "file_bytes": 802_111, **costs},
        "training": {"epochs": 1, "seconds": 1.0, "clips_per_second": 1.0},
    }
    (directory / "results.json").write_text(json.dumps(results))
    if net:
        content = {"hyper_parameters": {"net": net, "quantization": quantization}, "state_dict": {}, "stage": stage}
        torch.save({**content, "datamodule_hyper_parameters": data or {}}, directory / checkpoint)
    if config or overrides:
        (directory / ".hydra").mkdir()
        OmegaConf.save(config or {}, directory / ".hydra/config.yaml")
        OmegaConf.save(list(overrides), directory / ".hydra/overrides.yaml")
    return directory


def tasks(*places: Path) -> list[Task]:
    return group(map(read_run, find_runs(places)))


def systems(*places: Path) -> list[System]:
    return [system for task in tasks(*places) for system in task.systems]


def name(*runs: Path) -> str:
    """The name of the only system of these runs."""
    [system] = systems(*runs)
    return system.name


def cells(row: str) -> list[str]:
    """The columns of a row, which two blanks separate."""
    return [cell.strip() for cell in row.split("  ") if cell.strip()]


def test_seeds_share_a_row_with_mean_and_sample_deviation(tmp_path):
    for job, accuracy in enumerate([0.50, 0.60, 0.64]):
        write_run(tmp_path / "sweep" / str(job), accuracy, net=CNN)
    write_run(tmp_path / "alone", 0.25, net=BASELINE, size_kb=450.07, file_bytes=1_443_000, macs=111_740_000)
    [both] = tasks(tmp_path / "sweep", tmp_path / "alone")
    lines = systems_table(both).splitlines()
    assert lines[0] == "unknown data, 3 classes"
    # mean 58.0; deviations -8, 2, 6: (64 + 4 + 36) / 2 = 52, and its root 7.2; 802,111 / 1024 = 783.3
    assert cells(lines[5]) == ["CNN", "3", "68.0 ± 7.2", "58.0 ± 7.2", "1.000", "4.0", "3.5", "783.3", "163.0"]
    alone = ["DCASE 2020 baseline", "1", "35.0", "25.0", "1.000", "450.1", "3.5", "1409.2", "111.7"]
    assert cells(lines[4]) == alone
    assert lines[5].index("58.0") == lines[4].index("25.0")  # aligned at the decimal points
    text = report([both], dict.fromkeys(both.systems, 12345.0))
    assert max(map(len, text.splitlines())) <= 110


def test_tables_are_by_task(tmp_path):
    """Accuracies on other labels or data, or by cross-validation, do not compare."""
    for stage, settings in (("float", {}), ("pruned", pruned(520)), ("int8", INT8)):
        write_run(tmp_path / "here" / stage, data={"root": "/data/scenes3", "fold": 1}, net=CNN, **settings)
    write_run(tmp_path / "crossed", net=CNN, data={"root": "/data/scenes3", "fold": 1, "cv": 5})
    write_run(tmp_path / "elsewhere", net=CNN, data={"root": "/other/esc10"}, labels=["cat", "dog"])
    write_run(tmp_path / "renamed", net=CNN, data={"root": "/other/esc10"}, labels=["cat", "cow"])
    found = tasks(*(tmp_path / place for place in ("here", "crossed", "elsewhere", "renamed")))
    assert [(task.title, [system.name for system in task.systems]) for task in found] == [
        ("scenes3, 3 classes", ["CNN", "CNN, int8", "CNN, pruned 52 %"]),
        ("scenes3, 3 classes, 5-fold cross-validation", ["CNN"]),
        ("esc10, 2 classes", ["CNN"]),
        ("esc10, 2 classes #2", ["CNN"]),
    ]


@pytest.mark.parametrize(
    ("expected", "settings"),
    {
        "DCASE 2020 baseline": {"net": BASELINE},
        "OwnNet": {"net": {"_target_": "my_nets.OwnNet"}},
        "CNN": {"net": CNN, "nonzero_parameters": 950},  # few zeros: no pruning
        "CNN, pruned 5 %": {"net": CNN, "nonzero_parameters": 949},
        "CNN, fake-quantized": {"net": CNN, **INT8, "stage": "qat"},
        "CNN, int8, pruned 48 %": {"net": CNN, **pruned(479), **INT8},
        "run": {"net": None, "checkpoint": "gone.ckpt"},
    }.items(),
)
def test_names_contain_network_precision_and_pruning(expected, settings, tmp_path):
    assert name(write_run(tmp_path / "run", **settings)) == expected


def test_systems_of_equal_names_are_distinguished_by_the_overrides_that_differ(tmp_path):
    for place, lr, words in (("a", 0.1, ["seed=1"]), ("b", 0.5, ["optimizer.lr=0.5", "seed=2"])):
        write_run(tmp_path / place, net=CNN, config={"optimizer": {"lr": lr}}, overrides=["data=dcase", *words])
    write_run(tmp_path / "c", net={**CNN, "dropout_scale": 0.5}, overrides=["data=dcase"])
    write_run(tmp_path / "d", net=BASELINE, overrides=["optimizer.lr=0.7"])
    found = systems(tmp_path)
    assert [system.name for system in found] == ["CNN", "CNN, optimizer.lr=0.5", "CNN #2", "DCASE 2020 baseline"]
    assert differing(found[:2]) == {"optimizer.lr": ["0.1", "0.5"]}


def test_compressed_networks_are_named_by_the_phases_since_the_first_run(tmp_path):
    """The settings that compress.py leaves to the checkpoint, such as sample_rate=null, do not count as different."""
    write_run(tmp_path / "float", net=CNN, config={"sample_rate": 44100, "optimizer": {"lr": 3e-3}})
    phase = {"sample_rate": None, "checkpoint": [str(tmp_path / "float/made.ckpt")], "optimizer": {"lr": 3e-3}}
    distill = {**phase, "phase": {"_target_": "asc.compress.Distill", "temperature": 2.0}}
    write_run(tmp_path / "distilled", net=CNN, config=distill)
    after = {"checkpoint": str(tmp_path / "distilled/made.ckpt"), "phase": {"_target_": "asc.compress.QAT"}}
    write_run(tmp_path / "int8", net=CNN, **INT8, config=after)
    write_run(tmp_path / "own", net=CNN, config={**phase, "phase": {"_target_": "tiny.Rounded"}})
    found = systems(*(tmp_path / place for place in ("float", "distilled", "int8", "own")))
    assert [system.name for system in found] == ["CNN", "CNN, distilled", "CNN, distilled, int8", "CNN, Rounded"]
    assert differing(found) == {
        "phase._target_": ["", "asc.compress.Distill", "asc.compress.QAT", "tiny.Rounded"],
        "phase.temperature": ["", "2.0", "2.0", ""],
    }


def test_settings_of_runs_that_start_from_each_other_are_read_once(tmp_path):
    for one, other in ("ab", "ba"):
        config = {"checkpoint": str(tmp_path / other / "made.ckpt"), "phase": {"_target_": "asc.compress.QAT"}}
        write_run(tmp_path / one, net=CNN, config=config)
    assert len(read_run(tmp_path / "a").settings) == 2


def test_seeds_of_one_amount_of_pruning_are_a_system(tmp_path):
    """Rounding and folding give them different numbers of zeros; without settings, tenths tell amounts apart."""
    for amount, zeros in ((0.5, 490), (0.5, 510), (0.55, 549), (0.55, 551)):
        config = {"phase": {"_target_": "asc.compress.Prune", "amount": amount}}
        write_run(tmp_path / f"with/{zeros}", net=CNN, stage="pruned", nonzero_parameters=1000 - zeros, config=config)
    for zeros in (10, 20, 490, 510, 800):
        write_run(tmp_path / f"without/{zeros}", net=CNN, **INT8, nonzero_parameters=1000 - zeros)
    found = [(system.name, len(system.runs)) for system in systems(tmp_path)]
    assert found == [
        *(("CNN, pruned 50 %", 2), ("CNN, pruned 55 %", 2)),
        *(("CNN, int8", 2), ("CNN, int8, pruned 50 %", 2), ("CNN, int8, pruned 80 %", 1)),
    ]


def test_checkpoint_is_found_after_the_run_has_moved(tmp_path):
    directory = write_run(tmp_path / "run", checkpoint="old/place/checkpoints/best.ckpt")
    content = {"hyper_parameters": {"net": CNN}, "state_dict": {}, "stage": "float"}
    (directory / "checkpoints").mkdir()
    for place in (directory / "checkpoints/best.ckpt", directory / "best.ckpt"):
        torch.save(content, place)
        assert (read_run(directory).checkpoint, name(directory)) == (place, "CNN")


def test_directories_without_results_are_rejected(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty has no results.json: give the directory"):
        find_runs([write_run(tmp_path / "run"), tmp_path / "empty"])
    with pytest.raises(InputError, match="nowhere is not a directory"):
        find_runs([tmp_path / "nowhere"])


@pytest.mark.parametrize(
    "change",
    [{"stage": "half"}, {"accuracy": math.nan}, {"size_kb": None}, {"labels": ["park", "park", "tram"]}],
    ids=str,
)
def test_impossible_results_are_rejected(change, tmp_path):
    directory = write_run(tmp_path / "run")
    results = json.loads((directory / "results.json").read_text())
    for part in (results, results["test"], results["complexity"]):
        part.update({key: value for key, value in change.items() if key in part})
    (directory / "results.json").write_text(json.dumps(results))
    with pytest.raises(InputError, match=r"run/results.json cannot be read: .*; repeat or exclude the run"):
        read_run(directory)


@pytest.mark.parametrize("seed", range(3))
def test_pareto_front_is_what_nothing_dominates(seed):
    assert pareto_front([(60.0, 55.0), (250.0, 50.0), (450.0, 66.0), (30.0, 54.0), (450.0, 65.0)]) == [3, 0, 2]
    random = np.random.default_rng(seed)
    points = [(float(x), float(y)) for x, y in random.integers(0, 12, (40, 2))]  # few values: many ties
    left = {
        k
        for k, (size, accuracy) in enumerate(points)
        if not any(a <= size and b >= accuracy and (a, b) != (size, accuracy) for a, b in points)
    }
    front = pareto_front(points)
    assert sorted(front) == sorted(left)
    assert [points[k] for k in front] == sorted(points[k] for k in left)


def test_speedups_are_over_the_uncompressed_network_of_the_class(tmp_path):
    write_run(tmp_path / "a", net=CNN, size_kb=5.0, **{k: v for k, v in pruned(500).items() if k != "size_kb"})
    write_run(tmp_path / "b", net=CNN)
    write_run(tmp_path / "c", net=BASELINE, size_kb=3.5)
    write_run(tmp_path / "d", net=CNN, size_kb=2.0, **INT8)
    narrow = {**CNN, "filters": [16, 32, 64, 128]}
    write_run(tmp_path / "e", net=narrow, size_kb=1.0, overrides=["net.filters=[16,32,64,128]"], **INT8)
    found = systems(tmp_path, tmp_path / "a")  # each run counts once
    ratios = speedups(found, dict(zip(found, [10.0, 9.0, 20.0, 2.0, 1.0], strict=True)))
    assert {system.name: ratio for system, ratio in zip(found, ratios, strict=True)} == {
        "CNN, pruned 50 %": 0.9,
        "CNN": None,
        "DCASE 2020 baseline": None,
        "CNN, int8": 4.5,
        "CNN, int8, net.filters=[16,32,64,128]": 9.0,
    }


@pytest.fixture(scope="module")
def with_weights(tmp_path_factory):
    """The directory of a run with a complete checkpoint."""
    directory = write_run(tmp_path_factory.mktemp("runs") / "run", checkpoint="checkpoints/best.ckpt")
    model = SceneClassifier(
        frontend={"_target_": "asc.frontend.Spectrogram", "sample_rate": RATE},
        net=CNN,
        optimizer={"_target_": "torch.optim.Adam"},
        labels=LABELS,
        clip_samples=2 * RATE,
    )
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(directory / "checkpoints/best.ckpt")
    return directory


def test_networks_take_turns_on_one_thread_and_those_that_cannot_be_loaded_are_left_out(
    with_weights, tmp_path, monkeypatch
):
    calls, forward, threads = [], PhamCNN.forward, torch.get_num_threads()

    def noted(net: PhamCNN, x: torch.Tensor) -> torch.Tensor:
        calls.append((id(net), torch.get_num_threads()))
        return forward(net, x)

    monkeypatch.setattr(PhamCNN, "forward", noted)
    for place in ("run", "again"):
        shutil.copytree(with_weights, tmp_path / place)
    content = json.loads((tmp_path / "again/results.json").read_text())
    content["training"]["epochs"] = 2
    (tmp_path / "again/results.json").write_text(json.dumps(content))
    places = tmp_path, write_run(tmp_path / "foreign", net={"_target_": "my_nets.OwnNet"}), write_run(tmp_path / "lost")
    [task] = tasks(*places)
    torch.set_num_threads(2)
    try:
        latency = measure_latency(task.systems)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert {system.first.directory.name for system in latency} == {"run", "again"}
    assert all(0 < ms < 1000 for ms in latency.values())
    turns = [call for call, _ in itertools.groupby(calls)]
    assert len(turns) == 2 * ROUNDS
    assert {used for _, used in turns} == {1}
    table = systems_table(task, latency)
    assert sum(cells(line)[9] == "-" for line in table.splitlines()[4:]) == 2


def test_picture_has_a_panel_for_each_task(tmp_path):
    for place, net in (("here", CNN), ("there", CNN), ("here", BASELINE)):
        for zeros in (0, 500, 700):
            settings = pruned(zeros) if zeros else {}
            write_run(tmp_path / f"{place}{net['_target_']}{zeros}", net=net, data={"root": f"/{place}"}, **settings)
    found = tasks(tmp_path)
    figure = accuracy_plot(found, size, "KB")
    assert len(figure.axes) == 2
    [legend] = figure.legends
    box = legend.get_window_extent()
    assert not any(axes.get_tightbbox().overlaps(box) for axes in figure.axes)  # it covers nothing
    plot_accuracy_over_size(found, tmp_path / "two.png")
    content = (tmp_path / "two.png").read_bytes()
    assert int.from_bytes(content[16:20], "big") == 1472  # pixels of two panels


def test_pictures_that_cannot_be_written_are_rejected(tmp_path):
    run = str(write_run(tmp_path / "run"))
    for path in (tmp_path / "nowhere/report.png", tmp_path / "report.music"):
        with pytest.raises(SystemExit, match=f"^error: invalid --picture={path}: expected"):
            main([run, "--picture", str(path), "--no-latency"])


def test_command_prints_the_table_and_writes_the_picture(with_weights, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main([str(with_weights)])
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    row = cells(lines[4])
    assert row[:3] == ["CNN", "1", "60.0"]
    assert float(row[9]) > 0  # milliseconds
    assert lines[-1] == "picture  report.png"
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


def test_json_has_means_and_deviations_and_writes_no_picture(with_weights, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main([str(with_weights), "--no-latency", "--json"])
    [row] = json.loads(capsys.readouterr().out)
    assert (row["system"], row["runs"], row["milliseconds"]) == ("CNN", [str(with_weights)], None)
    assert (row["mean"]["macro_accuracy"], row["std"]["macro_accuracy"]) == (0.6, None)
    assert list(tmp_path.iterdir()) == []
    main([str(with_weights), "--no-latency", "--picture", "mine.png"])
    assert "speed-" not in capsys.readouterr().out
    assert (tmp_path / "mine.png").exists()


def write_fold(directory: Path, accuracy: float, fold: int, seed: int = 0) -> None:
    data = {"root": "/data/scenes", "cv": 5, "fold": fold, "seed": seed}
    write_run(directory / f"{fold}-{seed}", accuracy - 0.1, net=CNN, data=data)


def test_comparison_has_the_paired_interval_of_scipy(tmp_path, capsys):
    before, after = [0.50, 0.61, 0.58, 0.40], [0.55, 0.60, 0.66, 0.47]
    for side, accuracies in (("before", before), ("after", after)):
        for fold, accuracy in enumerate(accuracies):
            write_fold(tmp_path / side, accuracy, fold)
    main(["--compare", str(tmp_path / "before"), str(tmp_path / "after")])
    text = capsys.readouterr().out
    interval = ttest_rel(after, before).confidence_interval(0.95)
    assert "+4.8 points over 4 pairs" in text  # (5 - 1 + 8 + 7) / 4 = 4.75
    assert f"{100 * interval.low:+.1f} to {100 * interval.high:+.1f}" in text


def test_comparison_is_only_of_one_system_on_the_same_folds_and_seeds(tmp_path):
    for side, accuracy, fold, seed in (("a", 0.5, 1, 0), ("a", 0.9, 2, 0), ("b", 0.6, 1, 0), ("b", 0.1, 2, 1)):
        write_fold(tmp_path / side, accuracy, fold, seed)
    text = compare(tasks(tmp_path / "a"), tasks(tmp_path / "b"))
    assert "+10.0 points over 1 pair" in text
    assert "2 without a partner" in text
    with pytest.raises(InputError, match="share no data, fold and seed"):
        compare(tasks(tmp_path / "a/1-0"), tasks(tmp_path / "b/2-1"))
    write_run(tmp_path / "b/int8", net=CNN, data={"root": "/data/scenes", "cv": 5, "fold": 2}, **INT8)
    with pytest.raises(SystemExit, match=r"^error: .*\(CNN; CNN, int8\)"):
        main(["--compare", str(tmp_path / "a"), str(tmp_path / "b")])
