"""Checkpoints: loading runs no code, invalid files are reported, and those of version 0.1 load."""

import json
import math
import zipfile
from pathlib import Path

import pytest
import torch
from classifiers import classifier, save

from asc import InputError, SceneClassifier
from asc.loading import check_classes


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return save(classifier(), tmp_path_factory.mktemp("checkpoint") / "best.ckpt")


@pytest.fixture
def load_changed(checkpoint, tmp_path):
    """Loads the checkpoint with other hyperparameters or other parts."""

    def load(hyperparameters: dict | None = None, **parts: object) -> SceneClassifier:
        content = torch.load(checkpoint, weights_only=True)
        content["hyper_parameters"] |= hyperparameters or {}
        torch.save({**content, **parts}, tmp_path / "changed.ckpt")
        return SceneClassifier.load_from_checkpoint(tmp_path / "changed.ckpt")

    return load


def test_hyperparameters_can_be_replaced_at_loading(checkpoint):
    assert SceneClassifier.load_from_checkpoint(checkpoint, channel="mean").channel == "mean"


NET = {"_target_": "asc.nets.PhamCNN"}
ATTACKS = [  # nodes that would write the file PROOF if something called them
    {"_target_": "os.system", "command": "touch PROOF"},
    {"_target_": "pathlib.Path.write_text", "self": "PROOF", "data": "x"},
    {"_target_": "torch.save", "obj": 1, "f": "PROOF"},
    {"_target_": "hydra.utils.instantiate", "config": {"_target_": "os.system", "command": "touch PROOF"}},
    {"_target_": "asc.files.atomic_write", "path": "PROOF"},
    {"_target_": "asc.data.synthetic.SyntheticScenes", "root": "PROOF"},
    {**NET, "bn_eps": "${oc.create:{_target_:torch.save,_args_:[1,'PROOF']}}"},
    {**NET, "_args_": ["PROOF"]},
    {**NET, "deep": [{"er": {"_target_": "os.system", "command": "touch PROOF"}}]},
]


@pytest.mark.parametrize("role", ["frontend", "net", "optimizer", "scheduler", "quantization", "labels"])
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda node: str(node)[:40])
def test_a_hostile_checkpoint_runs_nothing(attack, role, load_changed, tmp_path):
    node = json.loads(json.dumps(attack).replace("PROOF", str(tmp_path / "proof")))
    with pytest.raises(InputError):
        load_changed({role: node})
    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize(
    ("role", "target"),
    [
        ("net", "asc.loading.os.system"),  # begins with asc and leads elsewhere
        ("net", "torch.optim.Adam"),  # each role has classes of its own
        ("net", "asc.nets.pham_cnn.torch.nn.Sequential"),
        ("optimizer", "torch.optim.lr_scheduler"),
        ("scheduler", "torch.optim.lr_scheduler.Counter"),
        ("net", ["asc.nets.PhamCNN"]),
        ("net", None),
    ],
)
def test_a_class_outside_the_closed_list_of_its_role_is_rejected(role, target):
    parts = {
        "frontend": {"_target_": "asc.frontend.Spectrogram"},
        "net": NET,
        "optimizer": {"_target_": "torch.optim.Adam"},
        "scheduler": {"_target_": "torch.optim.lr_scheduler.OneCycleLR"},
    }
    check_classes(parts, ())
    with pytest.raises(InputError, match=f"invalid {role}="):
        check_classes({**parts, role: {"_target_": target}}, ())


def test_a_class_of_a_trusted_module_is_accepted():
    parts = {"frontend": {"_target_": "asc.frontend.Spectrogram"}, "optimizer": {"_target_": "torch.optim.Adam"}}
    check_classes({**parts, "net": {"_target_": "torch.nn.Flatten"}}, ("torch.nn",))


def test_a_pickle_that_would_run_code_is_rejected(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "proof",))

    torch.save({"hyper_parameters": {}, "state_dict": {}, "x": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(InputError, match="evil.ckpt"):
        SceneClassifier.load_from_checkpoint(tmp_path / "evil.ckpt")
    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"labels": 5}, "labels"),
        ({"labels": ["indoor"] * 3}, "labels"),
        ({"stage": "zzz"}, "stage"),
        ({"clip_samples": None}, "clip_samples"),
        ({"quantization": {"engine": "onednn"}}, "quantization"),
        ({"stage": "int8", "quantization": {"engine": "fbgemm"}}, "engine"),
        ({"stage": "int8", "quantization": {"engine": "onednn", "weight_bits": True}}, "weight_bits"),
        ({"unheard_of": 1}, "unheard_of"),
        ({"backbone_lr_scale": math.nan}, "backbone_lr_scale"),
        ({"labels": ["only", "two"]}, "size mismatch"),  # torch's words
    ],
)
def test_an_invalid_hyperparameter_is_named_in_one_sentence(changes, name, load_changed):
    with pytest.raises(InputError, match=rf"changed\.ckpt.*{name}") as caught:
        load_changed(changes)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is not None


def test_missing_parts_are_reported(load_changed):
    for part in ("hyper_parameters", "state_dict"):
        with pytest.raises(InputError, match=r"changed\.ckpt: expected a checkpoint"):
            load_changed(**{part: None})


def test_weights_that_are_not_finite_are_reported(load_changed):
    state = classifier().state_dict()
    state["net.dense.weight"][1, 2] = math.nan
    with pytest.raises(InputError, match=r"net\.dense\.weight"):
        load_changed(state_dict=state)


def test_files_that_are_no_checkpoints_are_reported_with_the_cause(checkpoint, tmp_path):
    (tmp_path / "text.ckpt").write_text("no checkpoint\n")
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.ckpt")
    (tmp_path / "empty.ckpt").touch()
    (tmp_path / "cut.ckpt").write_bytes(checkpoint.read_bytes()[:-1000])
    for name in ("text.ckpt", "other.ckpt", "empty.ckpt", "cut.ckpt", "missing.ckpt", "."):
        with pytest.raises(InputError, match=f"invalid checkpoint={tmp_path / name}: expected a checkpoint"):
            SceneClassifier.load_from_checkpoint(tmp_path / name)
    with pytest.raises(InputError, match="No such file"):
        SceneClassifier.load_from_checkpoint(tmp_path / "missing.ckpt")


def test_an_error_within_the_program_is_no_input_error(checkpoint, monkeypatch):
    """Only errors about the file's content are reported as such."""

    def load_state_dict(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(SceneClassifier, "load_state_dict", load_state_dict)
    with pytest.raises(ZeroDivisionError):
        SceneClassifier.load_from_checkpoint(checkpoint)


@pytest.mark.parametrize("name", ["float", "pruned", "qat", "int8", "int8_bn"])
def test_a_checkpoint_of_version_0_1_gives_its_logits(name, tmp_path):
    """Trained at commit 283a29c for an epoch with `one_input_norm` and `body_lr=0.5`, since renamed."""
    with zipfile.ZipFile(Path(__file__).with_name("version_0.1.zip")) as archive:
        archive.extract(f"{name}.ckpt", tmp_path)
        stage, expected = json.loads(archive.read("logits.json"))[f"{name}.ckpt"]
    if name == "int8_bn" and "qnnpack" not in torch.backends.quantized.supported_engines:
        pytest.skip("qnnpack is not in this build of torch")
    model = SceneClassifier.load_from_checkpoint(tmp_path / f"{name}.ckpt")
    wave = 0.1 * torch.randn(2, 32000, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits = model(wave)
    assert model.stage == stage
    assert model.hparams["net"]["bn_first_block_only"]
    step = 0.1 if stage == "int8" else 1e-4  # rounding may move an 8-bit value to the next step on another processor
    torch.testing.assert_close(logits, torch.tensor(expected), atol=step, rtol=0)
