"""The benchmark measures what it says; its numbers themselves are not tested."""

import json
import mmap
import os
import time
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from candidates import broken, clerk
from command import run

from asc.benchmark import ours
from asc.benchmark.__main__ import main
from asc.benchmark.bench import Row, has_bfloat16, timing_table
from asc.benchmark.compare import Candidate, compare_timings
from asc.benchmark.train_runs import ResourceMonitor, runs_table, table3, train_run, write_repeated
from asc.data import SceneData
from asc.timing import median_seconds


def test_median_seconds_ignores_a_slow_call():
    pauses = iter([0.003] * 5 + [0.1] + [0.003] * 1000)
    seconds = median_seconds(lambda: time.sleep(next(pauses)), min_seconds=0.15)
    assert 0.003 <= seconds < 0.006


def test_median_seconds_sets_the_threads_of_its_calls_alone():
    before, seen = torch.get_num_threads(), set()
    median_seconds(lambda: seen.add(torch.get_num_threads()), threads=before + 1, min_seconds=0.001)
    assert seen == {before + 1}
    assert torch.get_num_threads() == before


@pytest.mark.nightly
def test_candidates_are_timed_in_turn_in_processes_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setenv("GOMP_SPINCOUNT", "1")
    file, environments = tmp_path / "notes", {"a": {}, "b": {"GOMP_SPINCOUNT": "7"}}
    candidates = [Candidate(name, clerk, {"name": name, "file": file}, own) for name, own in environments.items()]
    timings = compare_timings(candidates, rounds=1)
    notes = [line.split() for line in file.read_text().splitlines()]
    assert [name for name, *_ in notes[:2]] == ["a", "b"]  # both are made before any runs
    turns = [
        (name, [float(end) - float(start) for *_, start, end in runs])
        for name, runs in groupby(notes[2:], key=itemgetter(0))
    ]
    assert [name for name, _ in turns] == ["a", "b"] * 2  # one round to warm up
    processes = {(name, process, spin) for name, process, spin, *_ in notes}
    assert sorted((name, spin) for name, _, spin in processes) == [("a", "1"), ("b", "7")]
    assert str(os.getpid()) not in {process for _, process, _ in processes}
    for name, seconds in turns[2:]:
        assert min(seconds) <= timings[name].seconds[0] <= 1.1 * max(seconds)
        assert timings[name].memory > 1e6


def test_candidate_that_fails_is_named_with_its_error():
    with pytest.raises(RuntimeError, match="the broken one .* out of order"):
        compare_timings([Candidate("the broken one", broken, {})], rounds=1)


def test_ratios_are_taken_round_by_round():
    """Background load in a round of all leaves the ratio as it was."""
    row = Row("it", 10, [1.0, 4.0, 1.0], None, "peer", [3.0, 12.0, 3.0], "bound", [0.5, 2.0, 0.5])
    assert row.ratios(row.peer_seconds) == [3, 3, 3]
    line = timing_table([row]).splitlines()[-1]
    assert line.split() == ["it", "10.0", "2.5", "to", "10.0", "100.00", "3.00", "peer", "0.50", "bound"]


@pytest.mark.nightly
def test_command_prints_a_table_and_writes_its_numbers(tmp_path):
    file = tmp_path / "numbers.json"
    words = ["training", "--batch", "2", "--rounds", "2", "--threads", "1", "--json", str(file)]
    done = run("-m", "asc.benchmark", *words, "--device", "cpu", script="-u")
    assert done.returncode == 0, done.stderr
    rows = json.loads(file.read_text())["rows"]
    narrow = ["training, bfloat16, batch 2"] if has_bfloat16("cpu") else []
    assert [row["what"] for row in rows] == ["training, batch 2", *narrow]
    for row in rows:
        assert len(row["seconds"]) == len(row["bound_seconds"]) == 2
        assert min(row["seconds"] + row["bound_seconds"]) > 0
        assert (row["clips"], row["bound"]) == (2, "matrix products")
        assert row["memory"] > 1e6
        assert row["what"] in done.stdout


MAKERS = {
    "frontend": (ours.frontend, {"device": "cpu", "clips": 1}),
    "fourier": (ours.fourier, {"device": "cpu", "clips": 1}),
    "products": (ours.products, {"device": "cpu", "size": 64}),
    "training": (ours.training, {"device": "cpu", "batch": 2}),
    "inference": (ours.inference, {"device": "cpu", "batch": 2}),
    "8 bits, PyTorch": (ours.pytorch_integers, {}),
    "8 bits, ONNX Runtime": (ours.onnx_integers, {}),
}


@pytest.mark.parametrize(("make", "settings"), MAKERS.values(), ids=MAKERS)
def test_every_candidate_of_ours_runs_on_the_threads_it_is_given(make, settings):
    threads = torch.get_num_threads()
    try:
        call = make(threads=1, **settings)
        assert torch.get_num_threads() == 1
        call()
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "words", [["speed"], ["--rounds", "0"], ["--json", "nowhere/numbers.json"], ["--device", "tpu"]]
)
def test_wrong_arguments_get_one_sentence(words):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert str(stop.value).startswith("error: ")
    assert words[-1] in str(stop.value)


def test_no_recording_of_the_repeated_dataset_is_in_two_splits(tmp_path):
    data = SceneData(str(write_repeated(tmp_path / "repeated", 200)), cache=False)
    data.setup()
    assert sum(map(len, data.clips.values())) == 200
    heard = [{clip.path.resolve() for clip in data.clips[split]} for split in ("train", "test")]
    assert all(heard)
    assert not heard[0] & heard[1]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux reports them there")
def test_monitor_sees_open_files_and_memory(tmp_path):
    monitor = ResourceMonitor(str(tmp_path / "rows.json"))
    model = SimpleNamespace(device=torch.device("cpu"))
    monitor.on_train_epoch_start(None, model)
    monitor.on_train_epoch_start(None, model)
    with open(tmp_path / "any", "w"), mmap.mmap(-1, 100_000_000) as held:  # never memory that was freed before
        held.write(bytes(100_000_000))
        monitor.on_train_end(None, model)
    before, after = json.loads((tmp_path / "rows.json").read_text())["epochs"]
    assert after["files"] == before["files"] + 1
    assert 0.9e8 < after["resident"] - before["resident"] < 2.2e8


@pytest.mark.nightly
def test_run_of_train_py_is_measured_beside_its_bare_steps(tmp_path):
    small = ["data.clip_seconds=1", "data.batch_size=8", "net.filters=[8,8,8,8]", "trainer.max_epochs=3"]
    row = train_run("small", write_repeated(tmp_path / "data", 24), *small, bare_steps=True, threads=1)
    assert all(0 < epoch["bare_seconds"] < epoch["seconds"] for epoch in row["epochs"])
    assert len(row["epochs"]) == 3
    assert sum(epoch["seconds"] for epoch in row["epochs"]) < row["training_seconds"] + 1


@pytest.mark.nightly
def test_table3_runs_the_recipe_of_the_report():
    (row,) = table3("cpu", clips=24, epochs=1)
    assert all(row[f"{part}_seconds"] > 0 for part in ("set_up", "training", "test"))
    assert row["memory"] > 1e8
    assert runs_table([row]).splitlines()[-1].startswith("table 3, float32")
