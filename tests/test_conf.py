"""Every settings file composes, and builds what it names."""

import copy
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
from asc.frontend import Spectrogram
from asc.nets import Dcase2020Baseline, PhamCNN
from asc.training.parts import make_trainer

CONF = Path(__file__).parents[1] / "conf"
COMPRESSION = ("fine_tune", "prune_taught", "quantize_taught")
RECIPE = ("optimizer", "scheduler", "augmentation", "recalibrate_batch_norm")


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
    return instantiate(cfg.model, labels=labels, clip_samples=2 * cfg.sample_rate)


@pytest.mark.parametrize("recipe", ["small_data", "taught"])
def test_the_network_in_the_package_is_a_start_for_other_labels(recipe):
    packaged = asc.SceneClassifier.load_from_checkpoint(CONF.parent / "asc/pretrained/float.ckpt")
    model = model_of(settings(f"experiment={recipe}"), n_classes=5)
    model.start_from(packaged)
    theirs, ours = packaged.net.state_dict(), model.net.state_dict()
    *others, weight, bias = theirs
    assert all(torch.equal(theirs[name], ours[name]) for name in others)
    assert (theirs[weight].shape, ours[weight].shape) == ((3, 256), (5, 256))
    assert (len(theirs[bias]), len(ours[bias])) == (3, 5)


@pytest.mark.parametrize("choice", ["~experiment", *choices("experiment", "optimizer", "scheduler")])
def test_every_recipe_builds_a_model(choice):
    assert model_of(settings(choice)).complexity().parameters > 0


def test_every_network_takes_the_features_of_every_frontend():
    nets = [settings(choice) for choice in choices("net")]
    for frontend in (settings(choice).frontend for choice in choices("frontend")):
        for cfg in copy.deepcopy(nets):
            cfg.frontend = frontend
            assert model_of(cfg, n_classes=10).complexity().parameters > 0


def test_every_augmentation_builds():
    names = [choice.partition("=")[2] for choice in choices("augmentation")]
    for node in settings(f"augmentation=[{','.join(names)}]").augmentation.values():
        instantiate(node)


@pytest.mark.parametrize("choice", choices("data"))
def test_every_dataset_builds(choice):
    instantiate(settings(choice).data)


@pytest.mark.parametrize("choice", choices("trainer"))
def test_every_trainer_builds(choice):
    make_trainer(settings(choice).trainer)


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_every_logger_builds(name, monkeypatch, tmp_path):
    pytest.importorskip(name, reason=f"the extra {name} is not installed")
    monkeypatch.chdir(tmp_path)  # MLflow makes its folder
    cfg = settings(f"logger={name}")
    for variable, value in cfg.hydra.job.env_set.items():
        monkeypatch.setenv(variable, value)
    instantiate(cfg.logger)


@pytest.mark.parametrize("choice", choices("phase"))
def test_every_phase_builds(choice):
    cfg = settings(choice, "checkpoint=some.ckpt", command="compress")
    instantiate(cfg.phase)
    assert cfg.augmentation.keys() == {"random_crop", "between_class", "spec_augment"}
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
    assert len(cfg.hydra.sweeper.params) == 5
    for name, values in cfg.hydra.sweeper.params.items():
        assert isinstance(OmegaConf.select(cfg, name), int | float), name
        assert re.fullmatch(r"choice\(.*\)|interval\(.*\)|tag\(log, interval\(.*\)\)", values)
    if command == "compress":
        model = model_of(settings())
        instantiate(cfg.phase).begin(model)  # needs an amount for each of its layers


@pytest.mark.parametrize("recipe", ["~experiment", "compress", *choices("experiment")])
def test_choosing_data_changes_no_recipe(recipe):
    command = "compress" if recipe.partition("=")[2] in COMPRESSION or recipe == "compress" else "train"
    chosen = [*([recipe] if recipe != "compress" else []), *(["checkpoint=some.ckpt"] if command == "compress" else [])]

    def composed(*words: str) -> dict:
        cfg = settings(*chosen, *words, command=command)
        whole = OmegaConf.to_container(OmegaConf.create({name: cfg[name] for name in (*RECIPE, "trainer")}))
        return whole | {name: cfg.data[name] for name in ("batch_size", "val_fraction")}

    expected = composed()
    for choice in ("data=dcase2024", "data=folder"):
        assert composed(choice) == expected, choice


@pytest.mark.parametrize("experiment", ["~experiment", "experiment=table3_cnn"])
def test_without_deviations_the_settings_are_the_reports(experiment):
    cfg = settings(experiment)
    assert (cfg.data.batch_size, cfg.data.val_fraction, cfg.data.channel, cfg.trainer.max_epochs) == (100, 0, 0, 100)
    assert (cfg.optimizer._target_, cfg.optimizer.weight_decay) == ("torch.optim.Adam", 1e-4)
    assert cfg.augmentation.keys() == {"mixup"}
    assert (cfg.augmentation.mixup.alpha, cfg.scheduler, cfg.recalibrate_batch_norm) == (0.4, None, False)
    model = model_of(cfg)
    assert str(model.net) == str(PhamCNN(3)), "Table 2 is the defaults of its class"
    assert str(model.frontend) == str(Spectrogram(44100)), "and so is Table 1"
    assert model.frontend(torch.zeros(1, 441_000)).shape == (1, 1, 128, 428)


def test_the_baselines_experiment_is_the_official_recipe():
    cfg = settings("experiment=table3_baseline")
    assert (cfg.data.batch_size, cfg.trainer.max_epochs, cfg.optimizer.lr) == (16, 200, 1e-3)
    assert (cfg.data.val_fraction, cfg.callbacks.checkpoint.after_epoch, cfg.scheduler) == (0.3, 50, None)
    assert cfg.sample_rate == cfg.data.sample_rate == cfg.frontend.sample_rate == 48000
    assert not cfg.augmentation
    model = model_of(cfg)
    assert str(model.net) == str(Dcase2020Baseline(3))
    assert model.frontend(torch.zeros(1, 480_000)).shape == (1, 1, 40, 500)


def test_small_data_is_the_default_and_its_file_names_all_its_deviations():
    small, report = settings(), settings("~experiment")
    text = (CONF / "experiment/small_data.yaml").read_text()
    for name in ("frontend", "net", *RECIPE, "logit_adjustment", "trainer", "data"):
        if small[name] != report[name]:
            assert re.search(rf"^(  - override /)?{name}:", text, re.M), name
    assert (small.net.pooling, small.net.dropout_scale, small.frontend.normalize) == ("average", 0, "level")


def test_no_setting_is_listed_that_does_not_act():
    for choice in choices("frontend"):
        frontend = settings(choice).frontend
        assert bool(frontend.normalize) == ("dynamic_range" in frontend), choice


def test_a_choice_on_the_command_line_wins_over_the_experiment():
    cfg = settings("experiment=table3_cnn", "data=tau2020_3class", "optimizer.lr=0.5")
    assert (cfg.data.labels[0], cfg.optimizer.lr) == ("indoor", 0.5)


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
    assert not any(OmegaConf.is_config(value) for value in dict(model_of(settings()).hparams).values())
