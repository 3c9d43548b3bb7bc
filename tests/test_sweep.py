"""Sweeps: failing runs, Ctrl-C, searches, launchers, and the report in the end."""

import json

import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from command import call, results, rows, run, weights
from omegaconf import OmegaConf
from tiny import PLAIN, ctrl_c

from asc import InputError
from asc.training.sweep_report import FIXED, read_runs, sweep_report, sweep_table

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
    first, second = read_runs(tmp_path).reason
    assert first == "no such thing"
    assert second.startswith("invalid setting: ")
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
    assert set(runs.status) == {"finished", "too large"}
    trained, large = runs[runs.status == "finished"], runs[runs.status == "too large"]
    assert trained.size_kb.max() <= 100
    assert trained.val_macro_accuracy.between(0, 1).all()
    for job in large.job:
        assert json.loads((search / job / "job.json").read_text())["objective"] < 0
        assert not list((search / job).rglob("*.ckpt"))
    best = OmegaConf.load(search / "optimization_results.yaml")
    assert best.best_value == trained.val_macro_accuracy.max()
    assert runs["optimizer.lr"].nunique() == 3


@pytest.mark.nightly
def test_a_search_prunes_each_layer_by_an_amount_of_its_own(search, tmp_path):
    checkpoint = next(search.glob("*/checkpoints/best.ckpt"))
    words = ["search=prune_layers", "hydra.sweeper.n_trials=1", "trainer.max_epochs=1", f"checkpoint={checkpoint}"]
    assert call(*words, f"hydra.sweep.dir={tmp_path}", script="compress.py") is None
    (job,) = read_runs(tmp_path).job
    assert results(tmp_path / job)["stage"] == "pruned"
    overrides = json.loads((tmp_path / job / "job.json").read_text())["overrides"]
    assert len({word.partition("=")[2] for word in overrides if word.startswith("phase.amount.")}) == 5
    parameters = results(tmp_path / job)["complexity"]
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
    assert list(read_runs(tmp_path).status) == ["finished"]
    assert "runs    1 finished" in done.stdout.splitlines()


def runs_of(*rows: tuple, **settings: list[str]) -> pd.DataFrame:
    """Runs with these settings, by name with __ for a dot, and these validation and test accuracies."""
    table = pd.DataFrame({name.replace("__", "."): values for name, values in settings.items()}).reindex(
        columns=[*[name.replace("__", ".") for name in settings], *FIXED]
    )
    table["job"], table["status"], table["size_kb"], table["reason"] = table.index.astype(str), "finished", 10.0, ""
    table[["val_macro_accuracy", "test_macro_accuracy"]] = pd.DataFrame(rows, dtype=float)
    return table


def test_repetitions_are_averaged_and_the_best_comes_first(tmp_path):
    rows = [(0.5, 0.6), (0.7, 0.8), (0.8, 0.5), (0.8, 0.5), (None, None)]
    rates = ["0.00100001", "0.00100001", "0.01", "0.01", "1"]
    runs = runs_of(*rows, optimizer__lr=rates, seed=["0", "1", "0", "1", "0"])
    runs.loc[4, ["status", "reason", "size_kb"]] = ["failed", "diverged", None]
    head, _, first, second, third = sweep_table(runs).splitlines()
    assert head.split() == ["lr", "runs", "validation", "%", "test", "%", "KB"]
    assert first.split() == ["0.01", "2", "80.0", "+-", "0.0", "50.0", "+-", "0.0", "10.0"]
    assert second.split() == ["0.001", "2", "60.0", "+-", "14.1", "70.0", "+-", "14.1", "10.0"]  # 0.2 / sqrt(2)
    assert third.split() == ["1", "0", "-", "-", "-", "failed"]
    lines = sweep_report(tmp_path, runs).splitlines()
    assert "best    by validation accuracy: 2, 3  optimizer.lr=0.01" in lines
    assert "failed  4: diverged" in lines


def test_a_sweep_of_seeds_alone_shows_each_run_and_their_mean():
    table = sweep_table(runs_of((None, 0.5), (None, 0.6), (None, 0.7), seed=["0", "1", "2"]))
    head, _, *lines = table.splitlines()
    assert head.split()[:2] == ["seed", "runs"]
    expected = [[str(seed), "1", "-", f"{50 + 10 * seed}.0"] for seed in range(3)]
    assert [line.split()[:4] for line in lines[:3]] == expected
    assert lines[3].split() == ["mean", "3", "-", "60.0", "+-", "10.0", "10.0"]


def test_a_long_table_is_cut_and_escapes_control_characters():
    values = ["\x1b[31m" + 50 * "x", *map(str, range(39))]
    lines = sweep_table(runs_of(*[(0.5, 0.5)] * 40, net__width=values))
    assert "\x1b" not in lines
    assert "\\x1b[31mxxxxxxxxxxxxx..." in lines
    assert lines.splitlines()[-1] == "... and 10 more rows: see sweep.csv"
    assert max(map(len, lines.splitlines())) <= 80


def test_a_sweep_of_one_run_is_reported(tmp_path):
    sweep_report(tmp_path, runs_of((None, 0.5), seed=["1"]))
    assert (tmp_path / "sweep.png").exists()
