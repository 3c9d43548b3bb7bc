"""Sweeps: failing runs, Ctrl-C, searches, launchers, and the report in the end."""

import json
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from command import call, results, rows, run, weights
from omegaconf import OmegaConf
from tiny import PLAIN, ctrl_c

from asc import InputError
from asc.training.sweep_report import SweepRun, read_runs, sweep_report, sweep_table

VALIDATED = ["data.val_fraction=0.25", "trainer.max_epochs=1"]


class Broken(pl.Callback):
    """A callback with an error in its program."""

    def on_train_start(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        raise RuntimeError("no\nsuch thing")


@pytest.fixture(scope="module")
def swept(job, tmp_path_factory):
    """A sweep of three runs, of which the first cannot read its list: directory, command line and exit status."""
    directory = tmp_path_factory.mktemp("swept")
    lists = "data.train_list=nowhere.csv,evaluation_setup/fold1_train.csv"
    words = ["-m", *job, *PLAIN, *VALIDATED, lists, "seed=0,1", f"hydra.sweep.dir={directory}"]
    return directory, words, call(*words)


def test_a_run_that_fails_does_not_end_the_sweep(swept):
    directory, _, code = swept
    assert code == 1
    table = rows(directory / "sweep.csv")
    assert [row["status"] for row in table] == ["failed", "failed", "finished", "finished"]
    assert "nowhere.csv" in table[0]["reason"]
    for row in table[2:]:
        assert float(row["test_macro_accuracy"]) == results(directory / row["job"])["test"]["macro_accuracy"]
        assert 0 <= float(row["val_macro_accuracy"]) <= 1
        assert row["file_bytes"] == str(results(directory / row["job"])["complexity"]["file_bytes"])
    assert (directory / "sweep.png").read_bytes().startswith(b"\x89PNG")
    record = json.loads((directory / "2/job.json").read_text())
    assert record.keys() == {"overrides", "status", "objective", "reason"}
    states = [weights(directory / run / "checkpoints/last.ckpt") for run in "23"]
    assert not torch.equal(*(state["net.4.weight"] for state in states)), "each has its own seed"


def test_the_same_sweep_again_runs_what_is_not_finished(swept, capsys):
    directory, words, _ = swept
    before = (directory / "2/results.json").stat().st_mtime_ns
    assert call(*words) == 1
    assert (directory / "2/results.json").stat().st_mtime_ns == before
    captured = capsys.readouterr()
    assert captured.err.count("error: ") == 2
    assert f"{directory}/2 is already finished" in captured.out
    lines = captured.out.splitlines()
    assert "runs    2 failed, 2 finished" in lines
    (told,) = (line for line in lines if line.startswith("failed  "))
    assert told.startswith("failed  0, 1: ")
    assert "nowhere.csv" in told


def test_a_sweep_names_a_record_that_cannot_be_read(tmp_path):
    (tmp_path / "0").mkdir()
    (tmp_path / "0/job.json").write_text("{")
    with pytest.raises(InputError, match=rf"^{tmp_path}/0/job.json cannot be read: .*; delete {tmp_path}/0 to repeat"):
        read_runs(tmp_path)


def test_ctrl_c_ends_a_sweep_with_the_table_of_what_is_finished(job, tmp_path, capsys):
    epochs = [word.replace("epoch=0", "epoch=7,0,7") for word in ctrl_c(0)]
    message = str(call("-m", *job, *PLAIN, *VALIDATED, *epochs, f"hydra.sweep.dir={tmp_path}"))
    assert "stopped" in message
    assert "runs    1 finished, 1 stopped" in capsys.readouterr().out.splitlines()
    assert [row["status"] for row in rows(tmp_path / "sweep.csv")] == ["finished", "stopped"]
    assert not (tmp_path / "2").exists()


def test_an_error_in_the_program_is_traced_and_the_other_runs_go_on(job, tmp_path, capsys):
    broken = "+callbacks.broken._target_=test_sweep.Broken,tiny.Score"  # which wants an argument
    assert call("-m", *job, *PLAIN, *VALIDATED, broken, f"hydra.sweep.dir={tmp_path}") == 1
    captured = capsys.readouterr()
    assert 'raise RuntimeError("no\\nsuch thing")' in captured.err
    first, second = read_runs(tmp_path)
    assert (first.status, first.reason) == ("failed", "no such thing")
    assert second.reason.startswith("invalid setting: ")
    assert "failed  0: no such thing" in captured.out.splitlines()


@pytest.fixture(scope="module")
def search(job, tmp_path_factory):
    """The directory of a search under a size budget."""
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="the extra sweep is not installed")
    directory = tmp_path_factory.mktemp("search")
    words = ["search=size_budget", "max_size_kb=100", "hydra.sweeper.n_trials=3", "trainer.max_epochs=1"]
    assert call(*words, *job[:-1], f"hydra.sweep.dir={directory}") is None
    return directory


@pytest.mark.nightly
def test_a_search_under_a_size_budget_trains_only_what_is_within_it(search):
    runs = read_runs(search)
    assert {run.status for run in runs} == {"finished", "too large"}
    for found in runs:
        if found.status == "finished":
            assert found.results["complexity"]["size_kb"] <= 100
            assert 0 <= found.objective <= 1
        else:
            assert found.objective < 0
            assert not list((search / found.name).rglob("*.ckpt"))
    best = OmegaConf.load(search / "optimization_results.yaml")
    assert best.best_value == max(run.objective for run in runs)
    assert len({run.settings["optimizer.lr"] for run in runs}) == 3


@pytest.mark.nightly
def test_a_search_prunes_each_layer_by_an_amount_of_its_own(search, tmp_path):
    checkpoint = next(search.glob("*/checkpoints/best.ckpt"))
    words = ["search=prune_layers", "hydra.sweeper.n_trials=1", "trainer.max_epochs=1", f"checkpoint={checkpoint}"]
    assert call(*words, f"hydra.sweep.dir={tmp_path}", script="compress.py") is None
    (found,) = read_runs(tmp_path)
    assert found.results["stage"] == "pruned"
    assert len({float(found.settings[f"phase.amount.{number}"]) for number in range(5)}) == 5
    parameters = found.results["complexity"]
    assert parameters["nonzero_parameters"] < parameters["parameters"]


def test_a_search_without_validation_is_rejected(job, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="the extra sweep is not installed")
    message = str(call("search=size_budget", *job, "data.val_fraction=0", f"hydra.sweep.dir={tmp_path}"))
    assert message.startswith("error: a search chooses by validation accuracy")
    assert not (tmp_path / "1").exists(), "the next trial would be rejected too"


def test_a_search_without_optuna_names_the_extra(job, tmp_path, monkeypatch):
    monkeypatch.setattr("asc.training.sweep.find_spec", lambda name: None)
    message = call("search=size_budget", *job, f"hydra.sweep.dir={tmp_path}")
    assert message == 'error: search= needs Optuna: pip install -e ".[sweep]"'


@pytest.mark.nightly
def test_submitit_runs_a_job_in_a_process_of_its_own(job, tmp_path):
    pytest.importorskip("submitit", reason="hydra-submitit-launcher is not installed")
    words = ["hydra/launcher=submitit_local", "seed=1", *VALIDATED, f"hydra.sweep.dir={tmp_path}"]
    done = run("-m", *job, *words)
    assert done.returncode == 0, done.stderr
    assert [found.status for found in read_runs(tmp_path)] == ["finished"]
    assert "runs    1 finished" in done.stdout.splitlines()


def made(name: str, validation: float | None, test: float, **settings: str) -> SweepRun:
    settings = {key.replace("__", "."): value for key, value in settings.items()}
    found = {"test": {"macro_accuracy": test, "log_loss": 1.0}, "complexity": {"size_kb": 10.0}}
    return SweepRun(name, settings, "finished", validation, "", found)


def test_repetitions_are_averaged_and_the_best_comes_first(tmp_path):
    runs = [
        made("0", 0.5, 0.6, optimizer__lr="0.00100001", seed="0"),
        made("1", 0.7, 0.8, optimizer__lr="0.00100001", seed="1"),
        made("2", 0.8, 0.5, optimizer__lr="0.01", seed="0"),
        made("3", 0.8, 0.5, optimizer__lr="0.01", seed="1"),
        SweepRun("4", {"optimizer.lr": "1", "seed": "0"}, "failed", None, "diverged"),
    ]
    head, _, first, second, third = sweep_table(runs).splitlines()
    assert head.split() == ["lr", "runs", "validation", "%", "test", "%", "KB"]
    assert first.split() == ["0.01", "2", "80.0", "+-", "0.0", "50.0", "+-", "0.0", "10.0"]
    assert second.split() == ["0.001", "2", "60.0", "+-", "14.1", "70.0", "+-", "14.1", "10.0"]  # 0.2 / sqrt(2)
    assert third.split() == ["1", "0", "-", "-", "-", "failed"]
    lines = sweep_report(tmp_path, runs).splitlines()
    assert "best    by validation accuracy: 2, 3  optimizer.lr=0.01" in lines
    assert "failed  4: diverged" in lines


def test_a_sweep_of_seeds_alone_shows_each_run_and_their_mean():
    table = sweep_table([made(str(seed), None, 0.5 + seed / 10, seed=str(seed)) for seed in range(3)])
    head, _, *lines = table.splitlines()
    assert head.split()[:2] == ["seed", "runs"]
    expected = [[str(seed), "1", "-", f"{50 + 10 * seed}.0"] for seed in range(3)]
    assert [line.split()[:4] for line in lines[:3]] == expected
    assert lines[3].split() == ["mean", "3", "-", "60.0", "+-", "10.0", "10.0"]


def test_a_long_table_is_cut_and_escapes_control_characters():
    values = ["\x1b[31m" + 50 * "x", *map(str, range(39))]
    lines = sweep_table([made(str(number), 0.5, 0.5, net__width=value) for number, value in enumerate(values)])
    assert "\x1b" not in lines
    assert "\\x1b[31mxxxxxxxxxxxxx..." in lines
    assert lines.splitlines()[-1] == "... and 10 more rows: see sweep.csv"
    assert max(map(len, lines.splitlines())) <= 80


def test_a_sweep_of_one_run_is_reported(tmp_path):
    sweep_report(tmp_path, [made("0", None, 0.5, seed="1")])
    assert Path(tmp_path / "sweep.png").exists()
