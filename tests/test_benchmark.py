"""The benchmark measures what it says; its numbers themselves are not tested."""

import json
import os
import time
from functools import partial
from itertools import groupby
from pathlib import Path

import pytest
import torch
from command import run

from asc.benchmark import candidates
from asc.benchmark.__main__ import main
from asc.benchmark.bench import compare, time_epochs, timing_table
from asc.benchmark.candidates import pytorch
from asc.timing import median_seconds


def test_median_seconds_ignores_a_slow_call():
    pauses = iter([0.003] * 5 + [0.1] + [0.003] * 1000)
    seconds = median_seconds(lambda: time.sleep(next(pauses)), min_seconds=0.15)
    assert 0.003 <= seconds < 0.05  # a busy machine sleeps longer


def test_median_seconds_sets_the_threads_of_its_calls_alone():
    before, seen = torch.get_num_threads(), set()
    median_seconds(lambda: seen.add(torch.get_num_threads()), threads=before + 1, min_seconds=0.001)
    assert seen == {before + 1}
    assert torch.get_num_threads() == before


def clerk(name: str, file: Path):
    """A candidate that notes its name, its process, start and end when it is made and runs."""

    def note() -> None:
        start = time.perf_counter()
        time.sleep(0.01)
        with open(file, "a") as lines:
            lines.write(f"{name} {os.getpid()} {start!r} {time.perf_counter()!r}\n")

    note()
    return note


@pytest.mark.nightly
def test_candidates_are_timed_in_turn_in_processes_of_their_own(tmp_path):
    file = tmp_path / "notes"
    own, peer, bound = ({name: partial(clerk, name, file)} for name in ("own", "peer", "bound"))
    (row,) = compare(1, 10, own, peer, bound, scale=2)
    notes = [line.split() for line in file.read_text().splitlines()]
    assert [name for name, *_ in notes[:3]] == ["own", "peer", "bound"]  # all are made before any runs
    turns = [[*runs] for _, runs in groupby(notes[3:], key=lambda note: note[0])]
    assert [turn[0][0] for turn in turns] == ["own", "peer", "bound"] * 2  # one round to warm up
    assert len({process for _, process, *_ in notes} | {str(os.getpid())}) == 4
    assert (row["what"], row["clips"], row["peer"], row["bound"]) == ("own", 10, "peer", "bound")
    assert row["memory"] > 1e6
    for turn, key, scale in zip(turns[3:], ("seconds", "peer_seconds", "bound_seconds"), (1, 1, 2), strict=True):
        seconds = [scale * (float(end) - float(start)) for *_, start, end in turn]
        assert min(seconds) <= row[key][0] <= 1.1 * max(seconds)


def test_ratios_are_taken_round_by_round():
    """Background load in a round of all leaves the ratio as it was."""
    row = {"what": "it", "clips": 10, "seconds": [1.0, 4.0, 1.0], "peer": "peer", "peer_seconds": [3.0, 12.0, 3.0]}
    line = timing_table([row | {"bound": "bound", "bound_seconds": [0.5, 2.0, 0.5]}]).splitlines()[-1]
    assert line.split() == ["it", "10.0", "2.5", "to", "10.0", "100.00", "3.00", "peer", "0.50", "bound"]


@pytest.mark.nightly
def test_command_prints_a_table_and_writes_its_numbers(tmp_path):
    file = tmp_path / "numbers.json"
    words = ["training", "inference", "--batch", "2", "--rounds", "2", "--threads", "1", "--json", str(file)]
    done = run("-m", "asc.benchmark", *words, "--device", "cpu", script="-u")
    assert done.returncode == 0, done.stderr
    rows = json.loads(file.read_text())["rows"]
    assert [row["what"] for row in rows] == [
        f"{what}, batch 2{precision}" for what in ("training", "inference") for precision in ("", ", bfloat16")
    ]
    for row in rows:
        assert len(row["seconds"]) == len(row["bound_seconds"]) == 2
        assert min(row["seconds"] + row["bound_seconds"]) > 0
        assert (row["clips"], row["bound"]) == (2, "matrix products")
        assert row["memory"] > 1e6
        assert row["what"] in done.stdout


CANDIDATES = {
    "frontend": (candidates.frontend, "cpu", 1),
    "fourier": (candidates.fourier, "cpu", 1),
    "products": (candidates.products, "cpu", 64),
    "training": (candidates.training, "cpu", 2),
    "inference": (candidates.inference, "cpu", 2),
    "8 bits, PyTorch": (candidates.pytorch_integers,),
    "8 bits, ONNX Runtime": (candidates.onnx_integers,),
    "prediction": (candidates.prediction, 1, candidates.onnx_classifier),
    "decoding": (candidates.decoding,),
    "resampling": (candidates.resampling,),
    "frontend, ONNX Runtime": (candidates.onnx_frontend,),
}


@pytest.mark.parametrize("candidate", CANDIDATES.values(), ids=CANDIDATES)
def test_every_candidate_of_ours_runs_on_the_threads_it_is_given(candidate):
    threads = torch.get_num_threads()
    try:
        call = pytorch(1, *candidate)
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


@pytest.mark.nightly
def test_epochs_of_train_py_are_timed_beside_their_bare_steps():
    row = time_epochs(24, 1, "data.batch_size=8", "net.filters=[8,8,8,8]", "trainer.max_epochs=3")
    assert len(row["seconds"]) == len(row["bound_seconds"]) == 2  # the first warms up
    assert all(0 < bare < whole for bare, whole in zip(row["bound_seconds"], row["seconds"], strict=True))
    assert row["memory"] > 1e8
