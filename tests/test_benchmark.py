"""The benchmark: that it measures what it says, on small sizes; its figures themselves are no matter of tests."""

import json
import time

import pytest
from command import run

from asc.benchmark.__main__ import Row, main, table
from asc.benchmark.contest import Contestant, contest


def sleeper(seconds: float):
    return lambda: time.sleep(seconds)


def broken():
    raise ValueError("out of order")


def test_contestants_are_timed_in_turn_in_processes_of_their_own():
    short, long = Contestant("short", sleeper, {"seconds": 0.01}), Contestant("long", sleeper, {"seconds": 0.05})
    timings = contest([short, long], rounds=3)
    assert timings.keys() == {"short", "long"}
    assert [len(timing.seconds) for timing in timings.values()] == [3, 3]
    assert min(timings["short"].seconds) >= 0.01
    assert min(timings["long"].seconds) >= 0.05
    assert timings["short"].memory > 1e6


def test_a_contestant_that_breaks_down_is_named(capfd):
    with pytest.raises(RuntimeError, match="the broken one"):
        contest([Contestant("the broken one", broken, {})], rounds=1)
    assert "out of order" in capfd.readouterr().err


def test_ratios_are_taken_round_by_round():
    """A busy moment that hits a round of both leaves the ratio as it was."""
    row = Row("it", 10, [1.0, 4.0, 1.0], None, "peer", [3.0, 12.0, 3.0], "bound", [0.5, 2.0, 0.5])
    assert row.ratios(row.peer_seconds) == [3, 3, 3]
    line = table([row]).splitlines()[-1]
    assert line.split() == ["it", "10.0", "2.5", "to", "10.0", "100.00", "3.00", "peer", "0.50", "bound"]


def test_the_command_prints_a_table_and_writes_its_figures(tmp_path):
    file = tmp_path / "figures.json"
    words = ["training", "inference", "--batch", "2", "--rounds", "2", "--threads", "1", "--json", str(file)]
    done = run("-m", "asc.benchmark", *words, "--device", "cpu", script="-u")
    assert done.returncode == 0, done.stderr
    figures = json.loads(file.read_text())
    assert [row["what"] for row in figures["rows"]] == ["training, batch 2", "inference, batch 2"]
    for row in figures["rows"]:
        assert len(row["seconds"]) == len(row["bound_seconds"]) == 2
        assert row["what"] in done.stdout
    training, inference = (min(row["seconds"]) for row in figures["rows"])
    assert training > inference  # which is a part of it


@pytest.mark.parametrize(
    "words", [["speed"], ["--rounds", "0"], ["--json", "nowhere/figures.json"], ["--device", "tpu"]]
)
def test_wrong_arguments_get_one_sentence(words):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert str(stop.value).startswith("error: ")
    assert words[-1] in str(stop.value)
