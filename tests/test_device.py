"""The whole chain on the GPU, or on the emulated device of emulated.py."""

import copy
import os
import re
import subprocess
import sys

import lightning_fabric
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from classifiers import BASELINE, classifier
from command import ENVIRONMENT, REPOSITORY, call, results, run
from emulated import EmulatedAccelerator, Emulation
from hydra.utils import instantiate
from pytorch_lightning.accelerators import CUDAAccelerator
from pytorch_lightning.strategies import SingleDeviceStrategy
from test_conf import choices, settings

from asc import SceneClassifier
from asc.compress import QAT, Distill, Prune, PruneFilters
from asc.compress.prune_filters import strongest_filters, without_filters
from asc.data import SceneData, datamodule
from asc.export import export
from asc.training.callbacks import History, progress_bar
from asc.training.checkpoints import ExactResume
from asc.training.testing import recalibrate_batch_norm

HERE = "cuda" if torch.cuda.is_available() else "emulated"
STEP, END = "a step", "an epoch's end"
NETS = {
    "pham_cnn": {"dropout_scale": 0, "pooling": "mean_std"},  # dropout draws its own numbers on a CPU
    "baseline": {**BASELINE, "dropout_scale": 0},
    "cp_mobile": {"_target_": "asc.nets.CPMobile", "base_channels": 8},
}
AUGMENTATION = choices("augmentation")


@pytest.mark.nightly
@pytest.mark.skipif(HERE == "cuda", reason="there is a GPU")
def test_on_an_emulated_device(request):
    """In a process of its own: torch then has an accelerator, and must have it before its first gradient."""
    if request.config.getoption("--emulated"):
        pytest.skip("this is it")
    words = ["-m", "pytest", __file__, "--emulated", "-n0", "-q"]
    done = subprocess.run([sys.executable, *words], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout


@pytest.fixture
def there(request, monkeypatch):
    """The device, and a list of what makes a program wait for it, for which a GPU raises errors instead."""
    if request.param == "cuda":
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # whose products have 10 bits
        yield torch.device("cuda", 0), []
    else:
        with Emulation() as emulation:
            yield emulation.device, emulation.waits


@pytest.fixture
def data(tiny, tmp_path, monkeypatch) -> SceneData:
    monkeypatch.setattr(datamodule, "fits_on", lambda device, size: device.type != "cpu")
    data = SceneData(
        str(tiny), sample_rate=8000, clip_seconds=0.5, num_workers=0, batch_size=5, val_fraction=0.25,
        cache_dir=str(tmp_path / "cache"),
    )  # fmt: skip
    data.setup()
    return data


class Marks(pl.Callback):
    """Notes where steps begin and end among what they wait for.

    Args:
        waits: of `there`.
        strict: whether a GPU raises an error where a step waits.
    """

    def __init__(self, waits: list[str], strict: bool = True):
        self.waits, self.strict = waits, strict

    def on_train_batch_start(self, *_: object) -> None:
        self.waits.append(STEP)
        if HERE == "cuda" and self.strict:
            torch.cuda.set_sync_debug_mode("error")

    def on_train_epoch_end(self, *_: object) -> None:
        self.waits.append(END)
        if HERE == "cuda":
            torch.cuda.set_sync_debug_mode("default")

    on_validation_start = on_exception = on_train_epoch_end


def fit(model: SceneClassifier, data: SceneData, marks: Marks, callbacks: list, device: torch.device) -> History:
    """Two steps, and validation; the history."""
    data.features = None
    data.cache_features(model.hparams["frontend"], model.frontend, device)
    history = History(data.cache_dir)
    accelerator = CUDAAccelerator() if device.type == "cuda" else EmulatedAccelerator()
    trainer = pl.Trainer(
        max_epochs=1, limit_train_batches=2, strategy=SingleDeviceStrategy(device, accelerator), logger=False,
        enable_checkpointing=False, enable_model_summary=False, num_sanity_val_steps=0, log_every_n_steps=1,
        callbacks=[marks, history, progress_bar(), ExactResume(0), *callbacks],
    )  # fmt: skip
    trainer.fit(model.train(), data)
    return history


def within_steps(waits: list[str]) -> list[str]:
    """What was waited for between the start of a step and that of the next."""
    found, inside = [], False
    for wait in waits:
        if wait in (STEP, END):
            inside = wait == STEP
        elif inside:
            found.append(wait)
    return found


def test_the_emulated_device_rejects_cpu_tensors_and_records_waits(there):
    device, waits = there
    if device.type == "cuda":
        pytest.skip("torch takes one kind of accelerator in a process")
    x = torch.arange(3.0, device=device)
    assert x.device == device
    with pytest.raises(RuntimeError, match="two devices"):
        x + torch.ones(3)
    assert not waits
    assert (x.cpu() + 1).tolist() == [1, 2, 3]
    assert x[x > 0].sum().item() == 3
    x.to("cpu", non_blocking=True)
    assert [wait.split()[0] for wait in waits] == ["_to_copy", "index", "_local_scalar_dense"]


@pytest.mark.parametrize("normalize", [None, "level", "clip", "band"])
@pytest.mark.parametrize("choice", choices("frontend"))
def test_features_equal_those_of_the_cpu(choice, normalize, there):
    device, waits = there
    frontend = instantiate(settings(choice).frontend, sample_rate=44100, normalize=normalize)
    wave = 0.1 * torch.randn(2, 22050)
    expected = frontend(wave)
    features = frontend.to(device)(wave.to(device))
    assert features.device == device
    assert not [wait for wait in waits if "frontend.py" in wait]
    torch.testing.assert_close(features.cpu(), expected, atol=1e-3, rtol=1e-4)  # of logarithms


@pytest.mark.parametrize("net", NETS)
def test_training_equals_that_of_the_cpu(net, there, data):
    """On features that stay there, with batch norms measured again; and no step waits."""
    histories = []
    for device in (torch.device("cpu"), there[0]):
        torch.manual_seed(0)
        model = classifier(NETS[net], logit_adjustment=1)
        histories.append(fit(model, data, Marks(there[1]), [], device).rows)
        assert data.features.device == device if device.type != "cpu" else isinstance(data.features, np.ndarray)
    for row, expected in zip(*histories, strict=True):
        for name in ("train/loss", "val/loss"):
            assert row[name] == pytest.approx(expected[name], rel=1e-2), name
    assert there[1].count(STEP) == 2 * 2
    assert not within_steps(there[1])
    measured = [copy.deepcopy(model).to(device) for device in ("cpu", there[0])]
    for model in measured:
        recalibrate_batch_norm(model, data)
    expected, found = (model.cpu().state_dict() for model in measured)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4)


def test_no_step_waits_for_augmentation(there, data):
    """Of any kind, one after the other."""
    callbacks = [instantiate(node) for choice in AUGMENTATION for node in settings(choice).augmentation.values()]
    history = fit(classifier(), data, Marks(there[1]), callbacks, there[0])
    assert all(np.isfinite(row["train/loss"]) for row in history.rows)
    assert there[1].count(STEP) == 2
    assert not within_steps(there[1])


@pytest.mark.parametrize("phase", [Prune(), PruneFilters(), Distill(), QAT()], ids=lambda phase: type(phase).__name__)
def test_a_phase_fine_tunes_on_the_device_and_tests_on_the_cpu(phase, there, data, tmp_path):
    """In fake quantization torch itself waits."""
    is_qat = isinstance(phase, QAT)
    model = phase.begin(classifier())
    fit(model, data, Marks(there[1], strict=not is_qat), [phase], there[0])
    assert is_qat or not within_steps(there[1])
    model = phase.finish(model)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.test(model, data, verbose=False)
    assert len(model.test_probabilities) == 12
    assert export(model, tmp_path / "model.onnx").exists()


def test_a_classifier_on_the_device_classifies_and_exports(there, tiny, tmp_path):
    model = classifier()
    clip = min((tiny / "audio").iterdir())
    expected, cost = model.classify(clip), model.complexity()
    model.to(there[0])
    assert model.classify(clip) == pytest.approx(expected, abs=1e-4)
    assert model.folded().classify(clip) == pytest.approx(expected, abs=1e-4)
    assert model.complexity() == cost
    assert export(model, tmp_path / "model.onnx").exists()
    smaller = without_filters(model.net, strongest_filters(model.net, 0.5))
    assert {value.device for value in smaller.parameters()} == {there[0]}


def trainer_without_kernels(accelerator: str, **settings: object) -> pl.Trainer:
    """A trainer on a device for which torch has no kernels, as it has none for old GPUs."""
    return pl.Trainer(strategy=SingleDeviceStrategy(torch.device("meta"), EmulatedAccelerator()), **settings)


def test_a_device_that_cannot_compute_is_one_sentence(job, tmp_path):
    words = ["trainer._target_=test_device.trainer_without_kernels", f"data.cache_dir={tmp_path}/cache"]
    message = str(call(*job, *words, f"hydra.run.dir={tmp_path}"))
    assert message.startswith("error: meta cannot compute (")
    assert "trainer.accelerator=cpu" in message
    assert len(message.splitlines()) == 1
    kept = [np.load(file, mmap_mode="r").ndim for file in tmp_path.glob("cache/*.npy")]
    assert kept == [1], "only the durations of the clips: no features were computed"


def test_on_apple_silicon_everything_runs_on_the_cpu(job, tmp_path, monkeypatch, capfd):
    """Its GPU cannot do it, and its torch has one engine for 8 bits."""
    for module in (pl, lightning_fabric):
        monkeypatch.setattr(module.accelerators.MPSAccelerator, "is_available", staticmethod(lambda: True))
    monkeypatch.setattr(type(torch.backends.quantized), "supported_engines", ["none", "qnnpack"])
    assert pl.Trainer(barebones=True).strategy.root_device.type == "mps", "Lightning would choose it"
    capfd.readouterr()
    assert call(*job, "trainer.max_epochs=1", f"hydra.run.dir={tmp_path}/float") is None
    words = [f"checkpoint={tmp_path}/float/checkpoints/best.ckpt", "phase=qat", "trainer.max_epochs=2"]
    assert call(*words, f"hydra.run.dir={tmp_path}/int8", script="compress.py") is None
    content = torch.load(tmp_path / "int8/int8.ckpt", weights_only=True)
    assert content["hyper_parameters"]["quantization"]["engine"] == "qnnpack"
    assert call(f"{tmp_path}/int8/int8.ckpt", "--output", f"{tmp_path}/e", script="asc.evaluate") is None
    assert not capfd.readouterr().err


@pytest.mark.parametrize("compile", ["null", "reduce-overhead"])
def test_the_commands(compile, there, job, tmp_path):
    """Trained in bfloat16 on features that stay there, then compressed."""
    if HERE != "cuda":
        pytest.skip("a command finds no emulated device")
    visible = {**ENVIRONMENT, "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0")}
    words = ["trainer.accelerator=gpu", "trainer.precision=bf16-mixed", f"compile={compile}", "augmentation=[mixup]"]
    words += ["trainer.max_epochs=20", "data.val_fraction=0.25", f"hydra.run.dir={tmp_path}/float"]
    done = run(*job, *words, env=visible)
    assert done.returncode == 0, done.stderr
    assert compile != "null" or not done.stderr
    assert re.search(r"^memory .* peak, .* on the GPU$", done.stdout, re.M)
    assert results(tmp_path / "float")["test"]["accuracy"] > 0.6
    best = f"checkpoint={tmp_path}/float/checkpoints/best.ckpt"
    for phase in ("qat", "prune"):
        words = [best, f"phase={phase}", "trainer.accelerator=gpu", f"hydra.run.dir={tmp_path}/{phase}"]
        done = run(*words, "trainer.max_epochs=5", script="compress.py", env=visible)
        assert done.returncode == 0, done.stderr
        assert results(tmp_path / phase)["test"]["accuracy"] > 0.6
