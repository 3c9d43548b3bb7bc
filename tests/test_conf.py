"""Every settings file composes, and builds what it names."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import OmegaConf

import asc
from asc.data.lists import read_table

CONF = Path(__file__).parents[1] / "conf"


def choices(*groups: str) -> list[str]:
    return sorted(f"{group}={file.stem}" for group in groups for file in (CONF / group).glob("*.yaml"))


def settings(*overrides: str, command: str = "train"):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(command, ["data.root=somewhere", "hydra.run.dir=run", *overrides], return_hydra_config=True)
    OmegaConf.set_readonly(cfg.hydra, False)
    cfg.hydra.runtime.output_dir = "run"
    HydraConfig.instance().set_config(cfg)
    return cfg


def model_of(cfg, n_classes: int = 3) -> asc.SceneClassifier:
    labels = [f"scene{number}" for number in range(n_classes)]
    return instantiate(cfg.model, labels=labels, clip_samples=10 * cfg.sample_rate)


@pytest.mark.parametrize("choice", choices("frontend", "net", "optimizer", "scheduler", "experiment"))
def test_every_choice_builds_a_model_that_hears(choice):
    model = model_of(settings(choice)).eval()
    logits = model(torch.randn(1, model.clip_samples) * 0.1)
    assert logits.shape == (1, 3)
    assert logits.isfinite().all()


@pytest.mark.parametrize("net", choices("net"))
@pytest.mark.parametrize("frontend", choices("frontend"))
def test_every_network_takes_every_frontend(net, frontend):
    model_of(settings(net, frontend), n_classes=10).complexity()


@pytest.mark.parametrize("choice", choices("data", "callbacks", "trainer", "logger"))
def test_every_part_builds(choice, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # MLflow makes its folder
    group, name = choice.split("=")
    if group == "logger":
        pytest.importorskip(name, reason=f"the extra {name} is not installed")
    cfg = settings(choice)
    node = cfg[group]
    for variable, value in cfg.hydra.job.env_set.items():
        monkeypatch.setenv(variable, value)
    for part in node.values() if group == "callbacks" else [node]:
        instantiate(part)


@pytest.mark.parametrize("choice", choices("phase"))
def test_every_phase_builds(choice):
    cfg = settings(choice, "checkpoint=some.ckpt", command="compress")
    for part in (cfg.phase, *cfg.callbacks.values(), cfg.trainer):
        instantiate(part)
    if "distill" in choice:  # from scratch
        assert cfg.optimizer.lr == cfg.scheduler.max_lr == 3e-3
    else:
        assert (cfg.optimizer.lr, cfg.trainer.max_epochs, cfg.scheduler) == (1e-4, 20, None)
    assert set(cfg.data.values()) == {None, "somewhere"}


@pytest.mark.parametrize("choice", choices("search"))
def test_every_search_varies_settings_that_exist(choice):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="the extra sweep is not installed")
    command = "compress" if "prune" in choice else "train"
    cfg = settings(choice, *(["checkpoint=some.ckpt"] if command == "compress" else []), command=command)
    assert cfg.hydra.sweeper.direction == "maximize"
    assert len(cfg.hydra.sweeper.params) == 5
    for name, values in cfg.hydra.sweeper.params.items():
        assert isinstance(OmegaConf.select(cfg, name), int | float), name
        assert re.fullmatch(r"choice\(.*\)|interval\(.*\)|tag\(log, interval\(.*\)\)", values)
    if command == "compress":
        model = model_of(settings())
        instantiate(cfg.phase).begin(model)  # needs an amount for each of its layers


def test_compression_augments_as_training_does():
    callbacks = settings("checkpoint=some.ckpt", command="compress").callbacks
    for name in ("random_crop", "between_class", "spec_augment"):
        assert callbacks[name] == settings().callbacks[name]
    report = settings("callbacks=[mixup]", "checkpoint=some.ckpt", command="compress").callbacks
    assert report.keys() == {"mixup"}
    assert report.mixup.alpha == 0.4


@pytest.mark.parametrize("recipe", ["train", "compress", *choices("experiment")])
def test_choosing_data_changes_no_recipe(recipe):
    command = "compress" if recipe in ("compress", "experiment=fine_tune") else "train"
    chosen = [*([recipe] if "=" in recipe else []), *(["checkpoint=some.ckpt"] if command == "compress" else [])]

    def composed(*words: str) -> dict:
        cfg = settings(*chosen, *words, command=command)
        parts = ("optimizer", "scheduler", "trainer", "callbacks")
        whole = {part: OmegaConf.to_container(OmegaConf.create({part: cfg[part]})) for part in parts if cfg[part]}
        return whole | {name: cfg.data.get(name) for name in ("batch_size", "val_fraction")}

    expected = composed()
    assert expected.keys() >= {"optimizer", "trainer"}
    for choice in choices("data"):
        assert composed(choice) == expected, choice


def test_data_is_compressed_with_the_batches_of_its_checkpoint():
    for choice in choices("data"):
        data = settings(choice, "checkpoint=some.ckpt", command="compress").data
        assert (data.batch_size, data.val_fraction) == (None, None)


def test_experiments_say_what_the_report_and_the_baseline_say():
    cnn, baseline = settings("experiment=table3_cnn"), settings("experiment=table3_baseline")
    assert (cnn.data.batch_size, cnn.trainer.max_epochs, cnn.optimizer.weight_decay) == (100, 100, 1e-4)
    assert (cnn.callbacks.mixup.alpha, cnn.data.val_fraction, cnn.data.channel) == (0.4, 0, 0)
    assert cnn.scheduler is baseline.scheduler is cnn.frontend.normalize is baseline.frontend.normalize is None
    assert cnn.recalibrate_batch_norm is baseline.recalibrate_batch_norm is False
    assert (cnn.net.pooling, cnn.net.dropout_scale, baseline.net.dropout_scale) == ("max", 1, 1)
    assert (baseline.data.batch_size, baseline.trainer.max_epochs, baseline.optimizer.lr) == (16, 200, 1e-3)
    assert (baseline.data.val_fraction, baseline.callbacks.checkpoint.after_epoch) == (0.3, 50)
    assert baseline.sample_rate == baseline.data.sample_rate == baseline.frontend.sample_rate == 48000
    assert baseline.callbacks.keys() == {"checkpoint"}
    assert model_of(cnn).frontend(torch.zeros(1, 441_000)).shape == (1, 1, 128, 428)
    assert model_of(baseline).frontend(torch.zeros(1, 480_000)).shape == (1, 1, 40, 500)


def test_a_choice_on_the_command_line_wins_over_the_experiment():
    assert settings("experiment=table3_cnn", "data=tau2020_3class").data.labels[0] == "indoor"
    assert settings("experiment=table3_cnn", "optimizer.lr=0.5").optimizer.lr == 0.5


@pytest.mark.parametrize("experiment", choices("experiment"))
def test_the_learning_rate_is_one_setting(experiment):
    """A sweep over optimizer.lr must not be overruled by a schedule."""
    model = model_of(settings(experiment, "optimizer.lr=0.123"))
    model.trainer = SimpleNamespace(estimated_stepping_batches=10)
    found = model.configure_optimizers()
    if not isinstance(found, dict):
        assert found.param_groups[0]["lr"] == 0.123
        return
    schedule, rates = found["lr_scheduler"]["scheduler"], []
    for _ in range(9):
        found["optimizer"].step()
        schedule.step()
        rates.append(schedule.get_last_lr()[0])
    assert max(rates) == pytest.approx(0.123, rel=0.05)


def test_one_rate_moves_data_and_frontend():
    cfg = settings("sample_rate=22050")
    assert cfg.data.sample_rate == cfg.frontend.sample_rate == 22050


def test_the_settings_of_a_model_are_plain_values():
    """Otherwise a checkpoint would not load with weights_only=True."""
    hparams = dict(model_of(settings()).hparams)
    assert not any(OmegaConf.is_config(value) for value in hparams.values())


def test_the_2020_labels_are_those_of_the_real_lists(shared):
    rows = read_table(shared / "tau24/meta.csv", ["scene_label"])
    assert {row["scene_label"] for row in rows} <= set(settings("data=tau2020_3class").data.labels)
