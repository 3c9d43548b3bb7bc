"""Checkpoints: what they hold, what they may name, and that those of earlier versions load."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from classifiers import classifier, save
from command import ENVIRONMENT, REPOSITORY, run
from tiny import RATE, SECONDS

from asc import InputError, SceneClassifier
from asc.loading import check_targets


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return save(classifier(), tmp_path_factory.mktemp("checkpoint") / "best.ckpt")


def test_hyperparameters_may_be_replaced_at_loading(checkpoint):
    loaded = SceneClassifier.load_from_checkpoint(checkpoint, channel="mean")
    assert loaded.channel == "mean"


def test_a_foreign_target_is_refused_before_it_runs(checkpoint, tmp_path):
    content = torch.load(checkpoint, weights_only=True)
    proof = tmp_path / "proof"
    content["hyper_parameters"]["net"] = {"_target_": "os.system", "command": f"touch {proof}"}
    torch.save(content, tmp_path / "evil.ckpt")
    with pytest.raises(InputError, match="os.system.*no class of asc"):
        SceneClassifier.load_from_checkpoint(tmp_path / "evil.ckpt")
    assert not proof.exists()


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "asc.loading.pickle.loads",  # begins well and leads elsewhere
        "asc.loading.read_checkpoint",  # a function, not a part of a model
        "asc.nothing.here",
        "torch.optim.os.system",
        "torch.hub.load",
        "ascii.Evil",
    ],
)
def test_targets_that_are_no_parts_of_a_model_are_refused(target):
    for node in ({"_target_": target}, {"_target_": "asc.nets.PhamCNN", "deep": [{"inner": {"_target_": target}}]}):
        with pytest.raises(InputError, match="wants to run"):
            check_targets(node, (), "x.ckpt")


def nested(value: object) -> list[dict]:
    """The value in every place of hyperparameters that a file may hold."""
    net = {"_target_": "asc.nets.PhamCNN"}
    return [
        {"net": {**net, "bn_eps": value}},
        {"net": {**net, "filters": [32, 64, 128, value]}},
        {"net": {**net, "deep": {"er": [{"est": (1, value)}]}}},
        {"labels": ["indoor", value]},
        {"stage": value},
        {"net": {**net, str(value): 1}},
        {"quantization": {"engine": value}},
    ]


@pytest.mark.parametrize(
    "attack",
    [
        "${oc.create:{_target_:torch.save,_args_:[1,'PROOF']}}",
        "${oc.env:HOME}",
        "x${oc.decode:'${oc.env:HOME}'}",
        "${hydra:runtime.cwd}",
        "\\${oc.env:HOME}",
        "${",
    ],
)
@pytest.mark.parametrize("place", range(7))
def test_interpolations_never_reach_a_resolver(attack, place, checkpoint, tmp_path):
    content = torch.load(checkpoint, weights_only=True)
    attack = attack.replace("PROOF", str(tmp_path / "proof"))
    content["hyper_parameters"] |= nested(attack)[place]
    torch.save(content, tmp_path / "evil.ckpt")
    with pytest.raises(InputError, match="holds an interpolation"):
        SceneClassifier.load_from_checkpoint(tmp_path / "evil.ckpt")
    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize("keyword", ["_args_", "_partial_", "_recursive_", "_convert_", "_mode_"])
def test_hydras_keywords_are_refused(keyword, checkpoint, tmp_path):
    content = torch.load(checkpoint, weights_only=True)
    content["hyper_parameters"]["net"][keyword] = ["anything"]
    torch.save(content, tmp_path / "evil.ckpt")
    with pytest.raises(InputError, match=f"Hydra's keyword '{keyword}'"):
        SceneClassifier.load_from_checkpoint(tmp_path / "evil.ckpt")


def test_a_trusted_module_is_allowed():
    node = {"_target_": "torch.nn.Flatten"}
    with pytest.raises(InputError):
        check_targets(node, (), "x.ckpt")
    check_targets(node, ("torch.nn",), "x.ckpt")


def test_files_that_are_no_checkpoints_are_refused(tmp_path):
    (tmp_path / "text.ckpt").write_text("no checkpoint\n")
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.ckpt")
    (tmp_path / "empty.ckpt").touch()
    for name in ("text.ckpt", "other.ckpt", "empty.ckpt"):
        with pytest.raises(InputError, match=f"{name} is not a checkpoint of this program"):
            SceneClassifier.load_from_checkpoint(tmp_path / name)
    with pytest.raises(InputError, match="does not exist"):
        SceneClassifier.load_from_checkpoint(tmp_path / "none.ckpt")


def test_weights_that_do_not_fit_are_refused(checkpoint, tmp_path):
    content = torch.load(checkpoint, weights_only=True)
    content["hyper_parameters"]["labels"] = ["only", "two"]
    torch.save(content, tmp_path / "mixed.ckpt")
    with pytest.raises(InputError, match="does not fit its own settings"):
        SceneClassifier.load_from_checkpoint(tmp_path / "mixed.ckpt")


EARLIER = "4c0030d"  # a commit of version 0.1.0, whose checkpoints call some things otherwise
TRAIN_EARLIER = """
import runpy, sys, torch
from pathlib import Path

folder, seconds, rate, *job = sys.argv[1:]
folder = Path(folder)

def command(script, *words):
    sys.argv = [script, *words, "trainer.max_epochs=1"]
    runpy.run_path(script, run_name="__main__")

def compress(checkpoint, name, *words):
    words = [f"checkpoint={checkpoint}", *words, "data.num_workers=0", f"hydra.run.dir={folder}/{name}"]
    command("compress.py", *words)

command("train.py", *job, f"hydra.run.dir={folder}/float")
best = folder / "float/checkpoints/best.ckpt"
compress(best, "pruned", "phase=prune", "phase.ramp_epochs=0")
compress(folder / "pruned/pruned.ckpt", "folded", "phase=qat")
compress(best, "norms", "phase=qat", "phase.fold=false")

content = torch.load(best, weights_only=True)  # a scale below 0 before pooling: two batch norms cannot be folded
content["state_dict"]["net.blocks.1.3.weight"][2] = -1
torch.save(content, folder / "negative.ckpt")
compress(folder / "negative.ckpt", "lasting", "phase=qat")
assert torch.load(folder / "lasting/int8.ckpt", weights_only=True)["hyper_parameters"]["quantization"]["lasting"]

import asc
assert Path(asc.__file__).is_relative_to(Path.cwd()), asc.__file__
torch.set_num_threads(1)
torch.manual_seed(0)
wave = 0.1 * torch.randn(4, int(seconds) * int(rate))
logits = {}
with torch.inference_mode():
    for file in [*folder.glob("*/*.ckpt"), best]:
        model = asc.SceneClassifier.load_from_checkpoint(file)
        logits[str(file)] = (model.stage, model(wave))
torch.save({"wave": wave, "logits": logits}, folder / "logits")
"""


@pytest.fixture(scope="module")
def earlier(tmp_path_factory) -> Path:
    """The program of an earlier commit."""
    folder = tmp_path_factory.mktemp("earlier")
    if not shutil.which("git"):
        pytest.skip("git is not here")
    archive = subprocess.run(["git", "archive", EARLIER], cwd=REPOSITORY, capture_output=True)
    if archive.returncode:
        pytest.skip(f"the history with commit {EARLIER} is not here")
    shutil.unpack_archive(write(folder / "program.tar", archive.stdout), folder)
    return folder


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.slow
def test_the_checkpoints_of_an_earlier_version_give_its_logits_bit_for_bit(earlier, job, tmp_path):
    words = [TRAIN_EARLIER, str(tmp_path), str(SECONDS), str(RATE), *job]
    done = run(*words, script="-c", cwd=earlier, env={**ENVIRONMENT, "PYTHONPATH": str(earlier)})
    assert done.returncode == 0, done.stderr
    content = torch.load(tmp_path / "logits", weights_only=True)
    stages = [stage for stage, _ in content["logits"].values()]
    assert sorted(stages) == ["float", "int8", "int8", "int8", "pruned", "qat", "qat", "qat"]
    for file, (stage, logits) in content["logits"].items():
        model = SceneClassifier.load_from_checkpoint(file)
        assert model.stage == stage
        with torch.inference_mode():
            assert torch.equal(model(content["wave"]), logits), file
