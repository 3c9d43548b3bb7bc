"""The benchmark: that it measures what it says, on small sizes; its figures themselves are no matter of tests."""

import json
import mmap
import os
import signal
from itertools import groupby, pairwise
from operator import itemgetter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from command import run
from contestants import broken, clerk, expects

from asc.benchmark import ours, table3
from asc.benchmark.__main__ import main
from asc.benchmark.bench import Row, has_bfloat16, timing_table
from asc.benchmark.contest import SHORTEST, Contestant, busy, contest
from asc.benchmark.costs import costs
from asc.benchmark.endurance import Gauge
from asc.benchmark.products import products
from asc.benchmark.repeated import write_repeated
from asc.data import SceneData


def test_contestants_are_timed_in_turn_in_processes_of_their_own(tmp_path):
    file = tmp_path / "notes"
    timings = contest([Contestant(name, clerk, {"name": name, "file": file}) for name in "ab"], rounds=3)
    notes = [line.split() for line in file.read_text().splitlines()]
    assert [name for name, *_ in notes[:2]] == ["a", "b"]  # both are made before any runs
    turns = [(name, list(runs)) for name, runs in groupby(notes[2:], key=itemgetter(0))]
    assert [name for name, _ in turns] == ["a", "b"] * 4  # and one round before the three that count
    assert len({(name, process) for name, process, *_ in notes}) == 2
    assert str(os.getpid()) not in {process for _, process, *_ in notes}
    assert timings.keys() == {"a", "b"}
    assert all(len(timing.seconds) == 3 and timing.memory > 1e6 for timing in timings.values())
    for index, ((name, (first, *counted)), (_, (later, *_))) in enumerate(pairwise(turns[2:])):
        whole = timings[name].seconds[index // 2] * len(counted)  # of the mean, without the first run, which warms up
        assert whole >= max(SHORTEST, sum(float(end) - float(start) for *_, start, end in counted))
        assert whole <= float(later[2]) - float(first[3])


def test_a_contestant_has_an_environment_of_its_own(monkeypatch):
    monkeypatch.setenv("GOMP_SPINCOUNT", "1")
    contest([Contestant("it", expects, {"name": "GOMP_SPINCOUNT", "value": "7"}, {"GOMP_SPINCOUNT": "7"})], rounds=1)
    assert os.environ["GOMP_SPINCOUNT"] == "1"


def test_the_processes_beside_end_with_the_measurement():
    with busy(2) as others:
        assert [other.is_alive() for other in others] == [True, True]
    for other in others:
        other.join(60)
        assert other.exitcode == -signal.SIGTERM


def test_a_contestant_that_breaks_down_is_named(capfd):
    with pytest.raises(RuntimeError, match="the broken one"):
        contest([Contestant("the broken one", broken, {})], rounds=1)
    assert "out of order" in capfd.readouterr().err


def test_ratios_are_taken_round_by_round():
    """A busy moment that hits a round of both leaves the ratio as it was."""
    row = Row("it", 10, [1.0, 4.0, 1.0], None, "peer", [3.0, 12.0, 3.0], "bound", [0.5, 2.0, 0.5])
    assert row.ratios(row.peer_seconds) == [3, 3, 3]
    line = timing_table([row]).splitlines()[-1]
    assert line.split() == ["it", "10.0", "2.5", "to", "10.0", "100.00", "3.00", "peer", "0.50", "bound"]


@pytest.mark.slow
def test_the_command_prints_a_table_and_writes_its_figures(tmp_path):
    file = tmp_path / "figures.json"
    words = ["training", "--batch", "2", "--rounds", "2", "--threads", "1", "--json", str(file)]
    done = run("-m", "asc.benchmark", *words, "--device", "cpu", script="-u")
    assert done.returncode == 0, done.stderr
    figures = json.loads(file.read_text())
    narrow = ["training, bfloat16, batch 2"] if has_bfloat16("cpu") else []  # of a processor that computes in it
    assert [row["what"] for row in figures["rows"]] == ["training, batch 2", *narrow]
    for row in figures["rows"]:
        assert len(row["seconds"]) == len(row["bound_seconds"]) == 2
        assert min(row["seconds"] + row["bound_seconds"]) > 0
        assert (row["clips"], row["bound"]) == (2, "matrix products")
        assert row["memory"] > 1e6
        assert row["what"] in done.stdout


MAKERS = {
    "frontend": (ours.frontend, {"device": "cpu", "clips": 1}),
    "fourier": (ours.fourier, {"device": "cpu", "clips": 1}),
    "products": (products, {"device": "cpu", "size": 64}),
    "training": (ours.training, {"device": "cpu", "batch": 2}),
    "inference": (ours.inference, {"device": "cpu", "batch": 2}),
    "8 bits, PyTorch": (ours.pytorch_integers, {}),
    "8 bits, ONNX Runtime": (ours.onnx_integers, {}),
}


@pytest.mark.parametrize(("make", "settings"), MAKERS.values(), ids=MAKERS)
def test_every_contestant_of_ours_runs_on_the_threads_it_is_given(make, settings):
    threads = torch.get_num_threads()
    try:
        contestant = make(threads=1, **settings)
        assert torch.get_num_threads() == 1
        contestant()
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "words", [["speed"], ["--rounds", "0"], ["--busy", "-1"], ["--json", "nowhere/figures.json"], ["--device", "tpu"]]
)
def test_wrong_arguments_get_one_sentence(words):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert str(stop.value).startswith("error: ")
    assert words[-1] in str(stop.value)


@pytest.mark.parametrize("clips", [24, 200])
def test_the_repeated_dataset_is_one_that_a_run_accepts(clips, tmp_path):
    """A recording under several names is in one location, and so in one split."""
    data = SceneData(str(write_repeated(tmp_path / "repeated", clips)), cache=False)
    data.setup()
    assert sum(map(len, data.clips.values())) == clips
    heard = [{clip.path.resolve() for clip in data.clips[split]} for split in ("train", "test")]
    assert all(heard)
    assert not heard[0] & heard[1]


def test_the_gauge_sees_open_files_and_memory(tmp_path):
    if not Path("/proc/self/statm").exists():
        pytest.skip("only Linux tells them so")
    gauge = Gauge(str(tmp_path / "rows.json"))
    trainer = SimpleNamespace(current_epoch=0)
    gauge.on_train_epoch_end(trainer, None)
    with open(tmp_path / "any", "w"), mmap.mmap(-1, 100_000_000) as held:  # never memory that was freed before
        held.write(bytes(100_000_000))
        gauge.on_train_epoch_end(trainer, None)
    before, after = gauge.rows
    assert after["files"] == before["files"] + 1
    assert 0.9e8 < after["memory"] - before["memory"] < 2.2e8


def test_what_a_clip_costs(tmp_path):
    found = costs(tmp_path, clips=12, decoded=4)
    assert found["features, bytes"] == 128 * 428 * 2 + 4  # float16, and a checksum
    assert found["frontend, ms"] > 10 * found["check of the features, ms"] > 0
    assert all(cost > 0 for cost in found.values())


@pytest.mark.slow
def test_the_reports_recipe_by_the_plain_command():
    (row,) = table3.table3("cpu", threads=1, clips=24, epochs=1)
    assert all(row[f"{part}_seconds"] > 0 for part in ("set_up", "training", "test"))
    assert row["clips_per_second"] == pytest.approx(17 / row["training_seconds"])  # 24 * 9185 / 13370
    assert 0 < row["arithmetic"] < 2  # an estimate: parts that are not products, and a machine that others use
    assert row["memory"] > 1e8
    assert table3.table([row]).splitlines()[-1].split()[0] == "float32"
