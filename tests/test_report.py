"""Tables, pictures and times of finished runs."""

import itertools
import json
import math
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from command import ENVIRONMENT, REPOSITORY, run
from omegaconf import OmegaConf
from tiny import RATE
from torch import nn

from asc import InputError, SceneClassifier
from asc.report.__main__ import main
from asc.report.latency import ROUNDS, WARM_UP, measure_latency, single_thread_latency
from asc.report.palette import LIGHT
from asc.report.plot import accuracy_plot, pareto_front, plot_accuracy_over_size, size
from asc.report.runs import find_runs, read_run
from asc.report.settings import differing
from asc.report.systems import System, Task, all_systems, group
from asc.report.table import report, report_table, speedups, systems_table

LABELS = ["indoor", "outdoor", "transportation"]
CNN = {"_target_": "asc.nets.PhamCNN"}
BASELINE = {"_target_": "asc.nets.Dcase2020Baseline"}
INT8 = {"engine": "qnnpack", "weight_bits": 8, "fold_norms": True, "unfoldable": []}


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
    **costs: float,
) -> Path:
    """A run as training leaves it; with `net`, beside it the hyperparameters of a checkpoint, without weights.

    Args:
        data: hyperparameters of the dataset, of the checkpoint, too.
        config: its .hydra/config.yaml.
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
    if config:
        (directory / ".hydra").mkdir()
        OmegaConf.save(config, directory / ".hydra/config.yaml")
    return directory


def tasks(*places: Path) -> list[Task]:
    return group(map(read_run, find_runs(places)))


def systems(*places: Path) -> list[System]:
    return all_systems(tasks(*places))


def name(*runs: Path) -> str:
    """The name of the system that these runs are."""
    [system] = systems(*runs)
    return system.name


def cells(row: str) -> list[str]:
    """The columns of a row, which two blanks separate."""
    return [cell.strip() for cell in row.split("  ") if cell.strip()]


def test_runs_of_a_sweep_are_one_row_with_mean_and_sample_deviation(tmp_path):
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
    assert lines[5].index("58.0") == lines[4].index("25.0")  # the decimal points below each other
    quoted = report_table([both]).splitlines()
    assert cells(quoted[3]) == ["DCASE 2020 baseline", "87.3", "450.0", "35.0", "450.1", both.title]
    assert cells(quoted[4]) == ["CNN", "93.0", "245.5", "68.0", "4.0", both.title]
    assert "quoted from Pham et al. 2020" in quoted[-1]
    assert "not measured here" in quoted[-1]
    text = report([both], dict.fromkeys(both.systems, 12345.0))
    assert max(map(len, text.splitlines())) <= 110


def test_each_task_has_a_table_and_what_its_names_share_stands_above(tmp_path):
    """Accuracies on other labels or data, or by cross-validation, do not compare."""
    for stage, quantization in (("float", None), ("pruned", None), ("int8", INT8)):
        zeros = 520 if stage == "pruned" else 0
        costs = {"net": CNN, "stage": stage, "quantization": quantization, "nonzero_parameters": 1000 - zeros}
        write_run(tmp_path / "here" / stage, data={"root": "/data/scenes3", "fold": 1}, **costs)
    write_run(tmp_path / "crossed", net=CNN, data={"root": "/data/scenes3", "fold": 1, "cv": 5})
    write_run(tmp_path / "elsewhere", net=CNN, data={"root": "/other/esc10"}, labels=["cat", "dog"])
    found = tasks(tmp_path / "here", tmp_path / "crossed", tmp_path / "elsewhere")
    assert [(task.title, task.shared, [system.name for system in task.systems]) for task in found] == [
        ("scenes3, 3 classes", "CNN", ["float", "int8", "pruned 52 %"]),
        ("scenes3, 3 classes, 5-fold cross-validation", "", ["CNN"]),
        ("esc10, 2 classes", "", ["CNN"]),
    ]
    assert systems_table(found[0]).startswith("scenes3, 3 classes: CNN\n")


def test_rows_of_one_size_come_in_the_order_given_and_each_run_counts_once(tmp_path):
    b = write_run(tmp_path / "b", net=BASELINE, parameters=2000, nonzero_parameters=2000)
    a = write_run(tmp_path / "a", net=CNN)
    found = systems(b, a, b, tmp_path)
    assert [(system.name, len(system.runs)) for system in found] == [("DCASE 2020 baseline", 1), ("CNN", 1)]
    assert find_runs([tmp_path]) == [a, b]


@pytest.mark.parametrize(
    ("expected", "settings"),
    {
        "CNN": {"net": CNN},
        "DCASE 2020 baseline": {"net": BASELINE},
        "OwnNet": {"net": {"_target_": "my_nets.OwnNet"}},
        "CNN, int8": {"net": CNN, "stage": "int8", "quantization": INT8},
        "CNN, int8, batch norms kept": {
            "net": CNN,
            "stage": "int8",
            "quantization": {**INT8, "fold_norms": False},
        },
        "CNN, fake-quantized": {"net": CNN, "stage": "qat", "quantization": INT8},
        "CNN, pruned 48 %": {"net": CNN, "stage": "pruned", "nonzero_parameters": 521},
        "CNN, int8, pruned 48 %": {
            "net": CNN,
            "stage": "int8",
            "quantization": INT8,
            "nonzero_parameters": 521,
        },
        "CNN, int8, filters 16-32-64-128": {
            "net": {**CNN, "filters": [16, 32, 64, 128]},
            "stage": "int8",
            "quantization": INT8,
        },
    }.items(),
)
def test_names_tell_network_precision_and_pruning(expected, settings, tmp_path):
    assert name(write_run(tmp_path / "run", **settings)) == expected


def test_few_zeros_are_no_pruning_and_all_filters_no_structured_one(tmp_path):
    assert name(write_run(tmp_path / "few", net=CNN, nonzero_parameters=950)) == "CNN"
    assert name(write_run(tmp_path / "more", net=CNN, nonzero_parameters=949)) == "CNN, pruned 5 %"
    assert name(write_run(tmp_path / "all", net={**CNN, "filters": [32, 64, 128, 256]})) == "CNN"


@pytest.mark.parametrize(
    "other",
    [
        {"net": BASELINE},
        {"net": {**CNN, "bn_first_block_only": True}},
        {"net": CNN, "nonzero_parameters": 600},
        {"net": CNN, "labels": ["city", "park", "tram"]},
        {"net": CNN, "stage": "int8", "quantization": INT8},
    ],
)
def test_other_systems_have_rows_and_names_of_their_own(other, tmp_path):
    write_run(tmp_path / "a", net=CNN)
    write_run(tmp_path / "b", **other)
    found = systems(tmp_path)
    assert [len(system.runs) for system in found] == [1, 1]
    assert found[0].first.labels != found[1].first.labels or found[0].name != found[1].name


def test_systems_of_one_name_are_told_apart_by_what_differs(tmp_path):
    write_run(tmp_path / "a", net=CNN)
    other = {**CNN, "dropout_scale": 0.5}
    write_run(tmp_path / "b", net=other, parameters=1001, nonzero_parameters=1001)
    [task] = tasks(tmp_path)
    assert task.shared == "CNN"
    assert [system.name for system in task.systems] == ["float, 1,000 parameters", "float, 1,001 parameters"]


def test_a_distilled_network_is_named_by_its_phase(tmp_path):
    """Not by the settings that compress.py leaves to the checkpoint, such as sample_rate=null."""
    float_settings = {"sample_rate": 44100, "optimizer": {"lr": 3e-3}}
    write_run(tmp_path / "float", net=CNN, config=float_settings)
    phase = {"sample_rate": None, "checkpoint": [str(tmp_path / "float/made.ckpt")], "optimizer": {"lr": 3e-3}}
    distill = {**phase, "phase": {"_target_": "asc.compress.Distill", "temperature": 2.0}}
    write_run(tmp_path / "distilled", net=CNN, config=distill)
    after = {"checkpoint": str(tmp_path / "distilled/made.ckpt"), "phase": {"_target_": "asc.compress.QAT"}}
    write_run(tmp_path / "int8", net=CNN, stage="int8", quantization=INT8, config=after)
    write_run(tmp_path / "own", net=CNN, config={**phase, "phase": {"_target_": "tiny.Rounded"}})
    [task] = tasks(*(tmp_path / place for place in ("float", "distilled", "int8", "own")))
    assert task.shared == "CNN"
    assert [system.name for system in task.systems] == ["float", "distilled", "distilled, int8", "Rounded"]
    assert differing([system.first.settings for system in task.systems]) == {
        "phase._target_": ["", "asc.compress.Distill", "asc.compress.QAT", "tiny.Rounded"],
        "phase.temperature": ["", "2.0", "2.0", ""],
    }


def test_runs_that_name_each_other_as_their_source_end(tmp_path):
    for one, other in ("ab", "ba"):
        checkpoint = str(tmp_path / other / "made.ckpt")
        write_run(tmp_path / one, net=CNN, config={"checkpoint": checkpoint, "phase": {"_target_": "asc.compress.QAT"}})
    assert len(read_run(tmp_path / "a").settings) == 2


def test_names_hold_no_commands_of_a_terminal(tmp_path):
    run = write_run(tmp_path / "red\x1b[31m\n", labels=["a\x1b[2J", "b"])
    assert name(run) == "red\\x1b[31m\\n, float"
    assert read_run(run).labels == ("a\\x1b[2J", "b")
    (run / "results.json").write_text("{")
    with pytest.raises(SystemExit) as stop:
        main([str(run)])
    assert "\x1b" not in str(stop.value.code)


def test_zeros_that_rounding_leaves_part_no_seeds_but_amounts_do(tmp_path):
    """Folding and rounding give the seeds of one 8-bit system unlike numbers of values and of zeros."""
    for seed, (parameters, zeros) in enumerate([(61_517, 270), (61_517, 460), (62_541, 500)]):
        costs = {"parameters": parameters, "nonzero_parameters": parameters - zeros}
        write_run(tmp_path / f"dense{seed}", net=CNN, stage="int8", quantization=INT8, **costs)
    for amount in (490, 495, 980, 990):
        write_run(tmp_path / f"pruned{amount}", net=CNN, stage="pruned", nonzero_parameters=1000 - amount)
    found = [(system.name, len(system.runs)) for system in systems(tmp_path)]
    assert found == [("int8", 3), ("pruned 49 %", 2), ("pruned 98 %", 1), ("pruned 99 %", 1)]


def test_8_bit_networks_are_told_apart_by_what_they_came_from(tmp_path):
    """Folded, both variants of the network have as many values."""
    for variant in (False, True):
        net = {**CNN, "bn_first_block_only": variant}
        write_run(
            tmp_path / str(variant),
            net=net,
            stage="int8",
            quantization=INT8,
            parameters=61_517,
            nonzero_parameters=61_000,
        )
    [task] = tasks(tmp_path)
    assert task.shared == "CNN, int8"
    assert [system.name for system in task.systems] == ["as above", "one input norm"]


@pytest.mark.parametrize(
    ("reported", "settings"),
    [
        (["93.0", "245.5"], {"net": CNN}),
        (["91.9", "61.5"], {"net": CNN, "stage": "int8", "quantization": INT8}),
        (["90.5", "122.8"], {"net": CNN, "stage": "pruned", "nonzero_parameters": 550}),
        (["90.5", "122.8"], {"net": CNN, "stage": "pruned", "nonzero_parameters": 450}),
        ([], {"net": CNN, "stage": "pruned", "nonzero_parameters": 560}),
        ([], {"net": CNN, "stage": "int8", "quantization": INT8, "nonzero_parameters": 500}),
        ([], {"net": CNN, "stage": "qat", "quantization": INT8}),
        ([], {"net": {**CNN, "filters": [16, 32, 64, 128]}}),
        ([], {"net": {**CNN, "pooling": "average"}}),
        (["93.0", "245.5"], {"net": {**CNN, "pooling": "max"}}),
        ([], {"net": BASELINE, "stage": "int8", "quantization": INT8}),
        ([], {"net": CNN, "labels": ["park", "tram"]}),
        ([], {}),
    ],
)
def test_the_reports_figures_stand_beside_its_own_systems_only(reported, settings, tmp_path):
    table = report_table(tasks(write_run(tmp_path / "run", **settings)))
    assert ([cells(line)[1:3] for line in table.splitlines()[3:4]] or [[]]) == [reported]


def test_a_checkpoint_is_found_after_the_run_has_moved(tmp_path):
    run = write_run(tmp_path / "run", checkpoint="gone.ckpt")
    assert read_run(run).checkpoint is None
    assert name(run) == "run, float"
    results = json.loads((run / "results.json").read_text())
    (run / "results.json").write_text(json.dumps({**results, "checkpoint": "old/place/checkpoints/best.ckpt"}))
    content = {"hyper_parameters": {"net": CNN}, "state_dict": {}, "stage": "float"}
    (run / "checkpoints").mkdir()
    for place in (run / "checkpoints/best.ckpt", run / "best.ckpt"):
        torch.save(content, place)
        assert (read_run(run).checkpoint, name(run)) == (place, "CNN")


def test_what_holds_no_results_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty holds no results.json: give the directory"):
        find_runs([write_run(tmp_path / "run"), tmp_path / "empty"])
    with pytest.raises(InputError, match="nowhere is no directory"):
        find_runs([tmp_path / "nowhere"])


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"stage": "float"}', "\x00", "[" * 100_000, '{"stage":' * 100_000],
)
def test_results_that_are_none_are_refused(text, tmp_path):
    run = write_run(tmp_path / "run")
    (run / "results.json").write_text(text)
    with pytest.raises(InputError, match=r"run/results.json is not what a finished run writes \(.*\): repeat the run"):
        read_run(run)


@pytest.mark.parametrize(
    "settings",
    [
        {"stage": "half"},
        {"accuracy": math.nan},
        {"size_kb": None},
        {"macs": "many"},
        {"parameters": 0},
        {"accuracy": 5.0},
        {"accuracy": -0.2},
        {"size_kb": -1.0},
        {"size_kb": 1e308},
        {"macs": True},
        {"parameters": 10**400},
        {"labels": []},
        {"labels": ["park"]},
        {"labels": ["park", "park"]},
        {"labels": "park"},
        {"confusion_matrix": [[1, 2], [3]]},
        {"confusion_matrix": [[1, 2, 3]] * 2},
        {"confusion_matrix": [[1, 0, 0], [0, -1, 0], [0, 0, 1]]},
        {"confusion_matrix": 7},
    ],
)
def test_results_that_no_run_has_are_refused(settings, tmp_path):
    run = write_run(tmp_path / "run")
    results = json.loads((run / "results.json").read_text())
    for part in (results, results["test"], results["complexity"]):
        part.update({name: value for name, value in settings.items() if name in part})
    (run / "results.json").write_text(json.dumps(results))
    with pytest.raises(InputError, match="is not what a finished run writes") as refused:
        read_run(run)
    assert len(str(refused.value)) < len(str(run)) + 200


def test_the_front_by_hand():
    # size, accuracy: the second is larger and worse than the first, the last as large as the third and worse
    assert pareto_front([(60.0, 55.0), (250.0, 50.0), (450.0, 66.0), (30.0, 54.0), (450.0, 65.0)]) == [3, 0, 2]
    assert pareto_front([(1.0, 2.0)]) == [0]
    assert pareto_front([(2.0, 1.0), (1.0, 1.0)]) == [1]  # as accurate and smaller
    assert pareto_front([(1.0, 1.0), (1.0, 1.0)]) == [0, 1]  # neither beats the other


@pytest.mark.parametrize("seed", range(20))
def test_the_front_is_what_nothing_dominates(seed):
    random = np.random.default_rng(seed)
    points = [(float(x), float(y)) for x, y in random.integers(0, 12, (40, 2))]  # few values: many ties
    left = {
        k
        for k, (size, accuracy) in enumerate(points)
        if not any(a <= size and b >= accuracy and (a, b) != (size, accuracy) for a, b in points)
    }
    front = pareto_front(points)
    assert set(front) == left
    assert len(front) == len(left)
    assert [points[k] for k in front] == sorted(points[k] for k in left)


class Probe(nn.Module):
    """Notes who is called, and how; each call takes the next of `seconds` on the clock that it has."""

    def __init__(self, name: str, calls: list, clock: list[float], seconds: Iterable[float]):
        super().__init__()
        self.name, self.calls, self.clock, self.seconds = name, calls, clock, iter(seconds)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls.append((self.name, torch.get_num_threads(), torch.is_inference_mode_enabled()))
        self.clock[0] += next(self.seconds)
        return x


def test_a_latency_is_the_median_without_the_warm_up(monkeypatch):
    clock, calls = [0.0], []
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    middle = ROUNDS // 2
    seconds = [9.0] * WARM_UP + [5.0] * (ROUNDS - middle - 1) + [0.25] * (middle + 1)  # most take a quarter
    slow = [0.5] * (WARM_UP + ROUNDS)
    nets = {name: (Probe(name, calls, clock, taken), torch.zeros(1)) for name, taken in (("a", seconds), ("b", slow))}
    assert single_thread_latency(nets) == {"a": 250.0, "b": 500.0}
    assert len(calls) == 2 * (WARM_UP + ROUNDS)


def test_networks_take_turns_on_one_thread_and_the_threads_come_back():
    calls, threads = [], torch.get_num_threads()
    always = itertools.repeat(0.0)
    torch.set_num_threads(2)
    try:
        latency = single_thread_latency({name: (Probe(name, calls, [0.0], always), torch.zeros(1)) for name in "ab"})
        assert list(latency) == ["a", "b"]
        assert calls == [("a", 1, True), ("b", 1, True)] * (WARM_UP + ROUNDS)
        assert torch.get_num_threads() == 2
        with pytest.raises(StopIteration):  # its tenth call has no more seconds
            single_thread_latency({"broken": (Probe("broken", [], [0.0], [0.0] * 9), torch.zeros(1))})
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_an_8_bit_network_is_compared_with_the_float_one_it_came_from(tmp_path):
    costs = {"parameters": 63_751, "nonzero_parameters": 63_751}
    half = {**CNN, "filters": [16, 32, 64, 128]}
    write_run(tmp_path / "a", net=CNN, stage="pruned", parameters=63_751, nonzero_parameters=32_000)
    write_run(tmp_path / "b", net=CNN, **costs)
    write_run(tmp_path / "c", net=BASELINE, **costs)
    write_run(tmp_path / "d", net=CNN, stage="int8", quantization=INT8, parameters=61_517, nonzero_parameters=61_517)
    write_run(tmp_path / "e", net=half, stage="int8", quantization=INT8)
    found = systems(tmp_path)
    milliseconds = [10.0, 9.0, 20.0, 2.0, 1.0]
    ratios = speedups(found, dict(zip(found, milliseconds, strict=True)))
    assert {system.name: ratio for system, ratio in zip(found, ratios, strict=True)} == {
        "CNN, pruned 50 %": 0.9,
        "CNN": None,
        "DCASE 2020 baseline": None,
        "CNN, int8": 4.5,
        "CNN, int8, filters 16-32-64-128": 9.0,
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The directory of a run with a whole checkpoint."""
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


def test_a_network_that_cannot_be_had_has_no_time(trained, tmp_path):
    own = {"_target_": "my_nets.OwnNet"}
    found = systems(trained, write_run(tmp_path / "foreign", net=own), write_run(tmp_path / "lost"))
    latency = measure_latency(found)
    assert list(latency) == found[:1]
    assert latency[found[0]] > 0
    [task] = tasks(trained, tmp_path / "foreign", tmp_path / "lost")
    rows = [cells(line) for line in systems_table(task, {task.systems[0]: 1.25}).splitlines()[4:]]
    assert [row[9] for row in rows] == ["1.25", "-", "-"]


def test_the_picture_shows_each_system(tmp_path):
    for job in range(3):
        write_run(tmp_path / f"dense{job}", 0.5 + 0.02 * job, net=CNN)
    for zeros in (300, 500, 700):
        costs = {"nonzero_parameters": 1000 - zeros, "size_kb": 4 - zeros / 250}
        write_run(tmp_path / f"pruned{zeros}", 0.5 - zeros / 1e4, net=CNN, stage="pruned", **costs)
    plot_accuracy_over_size(tasks(tmp_path), tmp_path / "one.png")
    write_run(tmp_path / "other", labels=["park", "tram"])
    plot_accuracy_over_size(tasks(tmp_path), tmp_path / "two.png")
    sizes = []
    for picture in ("one.png", "two.png"):
        content = (tmp_path / picture).read_bytes()
        assert content.startswith(b"\x89PNG")
        sizes.append(int.from_bytes(content[16:20], "big"))
    assert sizes == [736, 1472]  # a panel for each task


def test_a_line_joins_systems_of_one_task_and_network_only(tmp_path):
    for place, net in (("here", CNN), ("there", CNN), ("here", BASELINE)):
        for zeros in (0, 500, 700):
            directory = tmp_path / f"{place}{net['_target_']}{zeros}"
            stage = "pruned" if zeros else "float"
            data, costs = {"root": f"/data/{place}"}, {"nonzero_parameters": 1000 - zeros, "size_kb": 4 - zeros / 250}
            write_run(directory, net=net, stage=stage, data=data, **costs)
    found = tasks(tmp_path)
    figure = accuracy_plot(found, size, "KB", [task.title for task in found])
    lines = [[line for line in axes.lines if line.get_color() == LIGHT["muted"]] for axes in figure.axes]
    assert [[len(line.get_xdata()) for line in panel] for panel in lines] == [[3, 3], [3]]
    [legend] = figure.legends
    box = legend.get_window_extent()
    assert not any(axes.get_tightbbox().overlaps(box) for axes in figure.axes)  # it covers nothing


def test_labels_of_a_plot_cover_no_points(tmp_path):
    for number in range(8):
        net = {**CNN, "filters": [8, 8, number + 1, 8]}
        write_run(tmp_path / str(number), 0.5 + number / 100, net=net, size_kb=4 + number)
    found = tasks(tmp_path)
    [axes] = accuracy_plot(found, size, "KB", ["title"]).axes
    boxes = np.array([label.get_window_extent().extents for label in axes.texts])
    assert len(boxes) == 8
    points = axes.transData.transform([(4 + number, 60 + number) for number in range(8)])
    inside = (points[:, None] > boxes[None, :, :2]) & (points[:, None] < boxes[None, :, 2:])
    assert not inside.all(-1).any()


def test_200_systems_take_seconds(tmp_path):
    for number in range(200):
        net = {**CNN, "filters": [8, 8, number + 1, 8]}
        write_run(tmp_path / str(number), 0.3 + number % 37 / 100, net=net, size_kb=4 + number)
    start = time.process_time()
    found = tasks(tmp_path)
    plot_accuracy_over_size(found, tmp_path / "many.png")
    assert len(systems_table(found[0]).splitlines()) == 204
    assert time.process_time() - start < 15


def test_a_picture_that_cannot_be_written_is_refused(tmp_path):
    found = tasks(write_run(tmp_path / "run"))
    with pytest.raises(InputError, match=r"nowhere/report.png cannot be written \(No such file or directory\)"):
        plot_accuracy_over_size(found, tmp_path / "nowhere/report.png")
    with pytest.raises(InputError, match=r"report.music cannot be written: give a name that ends in .png"):
        plot_accuracy_over_size(found, tmp_path / "report.music")


def test_the_command_line(trained, tmp_path):
    environment = {**ENVIRONMENT, "PYTHONPATH": str(REPOSITORY)}
    done = run("asc.report", str(trained), script="-m", cwd=tmp_path, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    row = cells(lines[4])
    assert row[:3] == ["CNN", "1", "60.0"]
    assert float(row[9]) > 0  # milliseconds
    assert lines[-1] == "picture  report.png"
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


def test_json_for_programs(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main([str(trained), "--no-latency", "--json"])
    [row] = json.loads(capsys.readouterr().out)
    assert (row["system"], row["runs"], row["milliseconds"]) == ("CNN", [str(trained)], None)
    assert (row["mean"]["macro_accuracy"], row["std"]["macro_accuracy"]) == (0.6, None)
    assert list(tmp_path.iterdir()) == []


def test_without_times_the_column_is_gone(trained, tmp_path, capsys):
    main([str(trained), "--no-latency", "--picture", str(tmp_path / "mine.png")])
    out = capsys.readouterr().out
    assert "speed-" not in out
    assert out.endswith(f"picture  {tmp_path / 'mine.png'}\n")
    assert (tmp_path / "mine.png").exists()


def test_a_mistake_is_one_sentence(tmp_path):
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path / "nothing")])
    sentence = f"error: {tmp_path}/nothing is no directory: give the directory of a finished run, or of several"
    assert stop.value.code == sentence
