"""Sweeps: what becomes of runs that fail, of Ctrl-C, of searches and of launchers."""

import json
import os
from pathlib import Path

import pytest
import pytorch_lightning as pl
from command import call, results, rows, run
from omegaconf import OmegaConf
from tiny import ctrl_c

from asc.training.jobs import Job, read_jobs, sweep_table

VALIDATED = ["data.val_fraction=0.25", "trainer.max_epochs=1"]


class Broken(pl.Callback):
    """A callback with an error in its program."""

    def on_train_start(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        raise RuntimeError("no\nsuch thing")


@pytest.fixture(scope="module")
def swept(job, tmp_path_factory):
    """The directory of a sweep of which one run cannot be, its words and what it exited with."""
    directory = tmp_path_factory.mktemp("swept")
    words = ["-m", *job, *VALIDATED, "data.fold=99,1", "optimizer.lr=1e-3", f"hydra.sweep.dir={directory}"]
    return directory, words, call(*words)


def test_a_run_that_fails_does_not_end_the_sweep(swept):
    directory, _, code = swept
    assert code == 1
    failed, finished = rows(directory / "sweep.csv")
    assert (failed["status"], finished["status"]) == ("failed", "finished")
    assert "fold99_train.csv does not exist" in failed["reason"]
    assert float(finished["test_macro_accuracy"]) == results(directory / "1")["test"]["macro_accuracy"]
    assert 0 <= float(finished["val_macro_accuracy"]) <= 1
    assert (directory / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_sweep_again_runs_what_is_not_finished(swept, capsys):
    directory, words, _ = swept
    before = (directory / "1/results.json").stat().st_mtime_ns
    assert call(*words) == 1
    assert (directory / "1/results.json").stat().st_mtime_ns == before
    captured = capsys.readouterr()
    assert captured.err.count("error: ") == 1
    assert f"{directory}/1 is finished already" in captured.out
    lines = captured.out.splitlines()
    assert "runs    1 failed, 1 finished" in lines
    (told,) = (line for line in lines if line.startswith("failed  "))
    assert told.startswith("failed  0: ")
    assert "fold99_train.csv" in told


def test_ctrl_c_ends_a_sweep_with_the_table_of_what_is_finished(job, tmp_path, capsys):
    epochs = [word.replace("epoch=0", "epoch=7,0,7") for word in ctrl_c(0)]
    message = str(call("-m", *job, *VALIDATED, *epochs, f"hydra.sweep.dir={tmp_path}"))
    assert "stopped" in message
    out = capsys.readouterr().out.splitlines()
    assert "runs    1 finished, 1 stopped" in out
    assert [row["status"] for row in rows(tmp_path / "sweep.csv")] == ["finished", "stopped"]
    assert not (tmp_path / "2").exists()


def test_an_error_in_the_program_is_traced_and_the_other_runs_go_on(job, tmp_path, capsys):
    broken = "+callbacks.broken._target_=test_sweep.Broken,tiny.Score"  # which wants an argument
    assert call("-m", *job, *VALIDATED, broken, f"hydra.sweep.dir={tmp_path}") == 1
    captured = capsys.readouterr()
    assert 'raise RuntimeError("no\\nsuch thing")' in captured.err
    first, second = read_jobs(tmp_path)
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


def test_a_search_under_a_size_budget_trains_only_what_is_within_it(search):
    jobs = read_jobs(search)
    assert {job.status for job in jobs} == {"finished", "too large"}
    for job in jobs:
        if job.status == "finished":
            assert job.size_kb <= 100
            assert 0 <= job.objective <= 1
        else:
            assert job.objective < 0
            assert not list((search / job.name).rglob("*.ckpt"))
    best = OmegaConf.load(search / "optimization_results.yaml")
    assert best.best_value == max(job.objective for job in jobs)
    assert len({job.settings["optimizer.lr"] for job in jobs}) == 3


def test_a_search_prunes_each_layer_by_an_amount_of_its_own(search, tmp_path):
    checkpoint = next(search.glob("*/checkpoints/best.ckpt"))
    words = ["search=prune_layers", "hydra.sweeper.n_trials=1", "trainer.max_epochs=1", f"checkpoint={checkpoint}"]
    assert call(*words, f"hydra.sweep.dir={tmp_path}", script="compress.py") is None
    (job,) = read_jobs(tmp_path)
    assert job.results["stage"] == "pruned"
    amounts = [float(job.settings[f"phase.amount.{number}"]) for number in range(5)]
    assert len(set(amounts)) == 5
    parameters = job.results["complexity"]
    assert parameters["nonzero_parameters"] < parameters["parameters"]


def test_a_search_without_validation_is_refused(job, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="the extra sweep is not installed")
    message = str(call("search=size_budget", *job, "data.val_fraction=0", f"hydra.sweep.dir={tmp_path}"))
    assert message.startswith("error: a search chooses by validation accuracy")
    assert "data.val_fraction=0.25" in message
    assert len(message.splitlines()) == 1
    assert not (tmp_path / "1").exists(), "the next trial would be refused too"


def test_a_search_without_optuna_names_the_extra(job, tmp_path, monkeypatch):
    monkeypatch.setattr("asc.training.sweep.find_spec", lambda name: None)
    message = call("search=size_budget", *job, f"hydra.sweep.dir={tmp_path}")
    assert message == 'error: search= needs Optuna: pip install -e ".[sweep]"'


def test_a_single_network_over_the_budget_is_refused(job, tmp_path):
    message = call(*job, "max_size_kb=200", f"hydra.run.dir={tmp_path}")
    assert message == "error: the network has 249.0 KB, more than max_size_kb=200: make it smaller"
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.slow
def test_submitit_runs_a_job_in_a_process_of_its_own(job, tmp_path):
    pytest.importorskip("submitit", reason="hydra-submitit-launcher is not installed")
    words = ["hydra/launcher=submitit_local", "seed=1", *VALIDATED, f"hydra.sweep.dir={tmp_path}"]
    done = run("-m", *job, *words)
    assert done.returncode == 0, done.stderr
    assert [found.status for found in read_jobs(tmp_path)] == ["finished"]
    assert "runs    1 finished" in done.stdout.splitlines()


def made(name: str, validation: float | None, test: float, **settings: str) -> Job:
    settings = {key.replace("__", "."): value for key, value in settings.items()}
    found = {"test": {"macro_accuracy": test}, "complexity": {"size_kb": 10.0}}
    return Job(name, settings, "finished", validation, "", found)


def test_repetitions_are_averaged_and_the_best_comes_first():
    jobs = [
        made("0", 0.5, 0.6, optimizer__lr="0.00100001", seed="0"),
        made("1", 0.7, 0.8, optimizer__lr="0.00100001", seed="1"),
        made("2", 0.8, 0.5, optimizer__lr="0.01", seed="0"),
        made("3", 0.8, 0.5, optimizer__lr="0.01", seed="1"),
    ]
    head, _, first, second = sweep_table(jobs)
    assert head.split() == ["lr", "runs", "validation", "%", "test", "%", "KB"]
    assert first.split() == ["0.01", "2", "80.0", "+-", "0.0", "50.0", "+-", "0.0", "10.0"]
    assert second.split() == ["0.001", "2", "60.0", "+-", "14.1", "70.0", "+-", "14.1", "10.0"]  # 0.2 / sqrt(2)


def test_a_sweep_of_seeds_alone_shows_each_run_and_their_mean():
    head, _, *lines = sweep_table([made(str(seed), None, 0.5 + seed / 10, seed=str(seed)) for seed in range(3)])
    assert head.split()[:2] == ["seed", "runs"]
    assert [line.split()[:4] for line in lines[:3]] == [
        [str(seed), "1", "-", f"{50 + 10 * seed}.0"] for seed in range(3)
    ]
    assert lines[3].split() == ["mean", "3", "-", "60.0", "+-", "10.0", "10.0"]


def test_a_table_is_narrow_and_clean():
    values = {f"group__name{number}": "0.123456789012" for number in range(5)}
    jobs = [made(str(n), 0.5, 0.5, **(values if n else {}), net__list="\x1b[31m" + 50 * "x") for n in range(2)]
    jobs.append(made("2", 0.5, 0.5, net__list="y"))
    lines = sweep_table(jobs)
    assert max(map(len, lines)) <= 140
    assert "\x1b" not in "".join(lines)
    assert "\\x1b[31mxxx" in "".join(lines)


def test_a_long_table_is_cut():
    lines = sweep_table([made(str(number), 0.5, 0.5, net__width=str(number)) for number in range(40)])
    assert len(lines) == 33
    assert lines[-1] == "... and 10 more rows: see sweep.csv"


def test_sweeps_leave_records_that_programs_read(swept):
    directory, _, _ = swept
    record = json.loads((directory / "1/job.json").read_text())
    assert record.keys() == {"overrides", "status", "objective", "reason"}
    assert not [name for name in os.listdir(Path(directory) / "1") if ".tmp" in name]
