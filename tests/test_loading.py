"""Checkpoints: what they hold, what they may name, and that those of earlier versions load."""

import json
import math
import re
import resource
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from classifiers import classifier, observed, save
from command import ENVIRONMENT, REPOSITORY, run
from tiny import RATE, SECONDS

from asc import InputError, SceneClassifier
from asc.compress import QAT
from asc.loading import check_hyperparameters


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
        "asc.loading.os.system",  # begins well and leads elsewhere
        "asc.loading.read_checkpoint",  # a function, not a part of a model
        "asc.nothing.here",
        "torch.optim.os.system",
        "torch.hub.load",
        "ascii.Evil",
    ],
)
def test_targets_that_are_no_parts_of_a_model_are_refused(target):
    for role in ("frontend", "net", "optimizer", "scheduler"):
        with pytest.raises(InputError, match=f"wants to run {target}.* for its {role}"):
            check_hyperparameters({role: {"_target_": target}}, (), "x.ckpt")
    deep = {"_target_": "asc.nets.PhamCNN", "deep": [{"inner": {"_target_": target}}]}
    for hyperparameters in ({"net": deep}, {"labels": {"_target_": target}}, {"quantization": {"_target_": target}}):
        with pytest.raises(InputError, match="keyword '_target_'"):
            check_hyperparameters(hyperparameters, (), "x.ckpt")


@pytest.mark.parametrize(
    ("role", "target"),
    [
        ("net", "torch.optim.Adam"),  # each role has classes of its own
        ("optimizer", "asc.nets.PhamCNN"),
        ("frontend", "asc.data.synthetic.SyntheticScenes"),  # a class that writes files
        ("net", "asc.classifier.SceneClassifier"),
        ("net", "asc.training.run.Run"),
        ("net", "asc.nets.pham_cnn.torch.nn.Sequential"),
        ("optimizer", "torch.optim.lr_scheduler"),
        ("scheduler", "torch.optim.lr_scheduler.Counter"),
        ("net", ["asc.nets.PhamCNN"]),
        ("net", {"_target_": "asc.nets.PhamCNN"}),
        ("net", None),
        ("net", 5),
    ],
)
def test_a_class_has_its_role_alone(role, target):
    with pytest.raises(InputError, match="wants to run|Hydra's keyword"):
        check_hyperparameters({role: {"_target_": target}}, (), "x.ckpt")


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


TARGETS = [  # callables that would leave PROOF, or run what they are given
    ("pathlib.Path.write_text", {"self": "PROOF", "data": "x"}),
    ("builtins.open", {"file": "PROOF", "mode": "w"}),
    ("builtins.eval", {"source": "open('PROOF','w')"}),
    ("subprocess.run", {"args": ["touch", "PROOF"]}),
    ("shutil.copyfile", {"src": "/dev/null", "dst": "PROOF"}),
    ("torch.save", {"obj": 1, "f": "PROOF"}),
    ("torch.load", {"f": "PROOF", "weights_only": False}),
    ("numpy.load", {"file": "PROOF", "allow_pickle": True}),
    ("runpy.run_path", {"path_name": "PROOF"}),
    ("timeit.timeit", {"stmt": "open('PROOF','w')"}),
    ("hydra.utils.instantiate", {"config": {"_target_": "os.system", "command": "touch PROOF"}}),
    ("asc.training.history.History", {"directory": "PROOF"}),
    ("asc.files.atomic_write", {"path": "PROOF"}),
    ("pytorch_lightning.Trainer", {"default_root_dir": "PROOF"}),
]


def places(node: dict) -> list[dict]:
    """A node in every place where a part, a value or a key of hyperparameters may stand."""
    net = {"_target_": "asc.nets.PhamCNN"}
    return [
        {"net": node},
        {"frontend": node},
        {"optimizer": node},
        {"scheduler": node},
        {"net": {**net, "bn_eps": node}},
        {"net": {**net, "filters": [node, 64, 128, 256]}},
        {"net": {**net, **{key: value for key, value in node.items() if key != "_target_"}}},
        {"labels": [node, node]},
        {"quantization": node},
        {"channel": node},
        {"clip_samples": node},
        {"unheard_of": node},
    ]


@pytest.mark.parametrize(("target", "arguments"), TARGETS, ids=[target for target, _ in TARGETS])
def test_a_hostile_checkpoint_runs_nothing(target, arguments, checkpoint, tmp_path):
    """With the ones above and below, over 200 of them; each is a file, loaded as any other."""
    content, proof = torch.load(checkpoint, weights_only=True), tmp_path / "proof"
    node = json.loads(json.dumps({"_target_": target, **arguments}).replace("PROOF", str(proof)))
    sound = content["hyper_parameters"]
    for place in places(node):
        torch.save({**content, "hyper_parameters": {**sound, **place}}, tmp_path / "evil.ckpt")
        with pytest.raises(InputError):
            SceneClassifier.load_from_checkpoint(tmp_path / "evil.ckpt")
        assert not proof.exists(), place


@pytest.mark.parametrize(
    "claim",
    [
        {"net": {"_target_": "asc.nets.PhamCNN", "filters": [8192] * 4}},
        {"net": {"_target_": "asc.nets.PhamCNN", "filters": [10**9] * 4}},
        {"labels": [f"scene {number}" for number in range(9999)]},
        {"clip_samples": 10**12},
        {"frontend": {"_target_": "asc.frontend.Spectrogram", "sample_rate": 8000, "n_bins": 100_000}},
        {"frontend": {"_target_": "asc.frontend.Spectrogram", "sample_rate": 8000, "n_fft": 2**31}},
        {"frontend": {"_target_": "asc.frontend.Spectrogram", "sample_rate": 2**31}},
    ],
)
def test_sizes_that_a_file_claims_are_not_believed(claim, checkpoint, tmp_path):
    """The smallest would take 5 GB."""
    content = torch.load(checkpoint, weights_only=True)
    content["hyper_parameters"] |= claim
    torch.save(content, tmp_path / "large.ckpt")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError):
        SceneClassifier.load_from_checkpoint(tmp_path / "large.ckpt")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 300_000  # KB


@pytest.mark.parametrize(
    "damage",
    [
        {"labels": 5},
        {"labels": []},
        {"labels": ["indoor"] * 3},
        {"labels": ["indoor", "outdoor", 3]},
        {"stage": "zzz"},
        {"clip_samples": 0},
        {"clip_samples": None},
        {"channel": -1},
        {"net": None},
        {"net": {}},
        {"net": [1]},
        {"frontend": 5},
        {"optimizer": "adam"},
        {"quantization": [1, 2]},
        {"quantization": {"engine": "onednn"}},
        {"stage": "int8"},
        {"unheard_of": 1},
        {"backbone_lr_scale": math.nan},
    ],
)
def test_damaged_settings_are_one_sentence(damage, checkpoint, tmp_path):
    content = torch.load(checkpoint, weights_only=True)
    content["hyper_parameters"] |= damage
    torch.save(content, tmp_path / "damaged.ckpt")
    with pytest.raises(InputError) as refusal:
        SceneClassifier.load_from_checkpoint(tmp_path / "damaged.ckpt")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("engine", 2), ("engine", "fbgemm"), ("weight_bits", True), ("fold_norms", "yes"), ("unfoldable[0]", "a")],
)
def test_quantization_of_another_kind_is_named(name, value, tmp_path):
    save(observed(classifier(), QAT()), tmp_path / "qat.ckpt")
    content = torch.load(tmp_path / "qat.ckpt", weights_only=True)
    setting = name.removesuffix("[0]")
    content["hyper_parameters"]["quantization"][setting] = value if setting == name else [value]
    torch.save(content, tmp_path / "qat.ckpt")
    with pytest.raises(InputError, match=rf"qat.ckpt cannot be used \(invalid {re.escape(name)}={str(value).lower()}:"):
        SceneClassifier.load_from_checkpoint(tmp_path / "qat.ckpt")


@pytest.mark.parametrize("value", [None, [], "text", 5, {5: 1}])
@pytest.mark.parametrize("part", ["hyper_parameters", "state_dict", "datamodule_hyper_parameters"])
def test_parts_of_another_type_are_refused(part, value, checkpoint, tmp_path):
    content = torch.load(checkpoint, weights_only=True)
    torch.save({**content, part: value}, tmp_path / "damaged.ckpt")
    with pytest.raises(InputError, match="damaged.ckpt"):
        SceneClassifier.load_from_checkpoint(tmp_path / "damaged.ckpt")


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
def test_a_checkpoint_that_is_cut_off_is_refused(part, checkpoint, tmp_path):
    whole = checkpoint.read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(InputError, match="cut.ckpt is not a checkpoint"):
        SceneClassifier.load_from_checkpoint(tmp_path / "cut.ckpt")


def test_weights_that_are_no_numbers_are_refused(checkpoint, tmp_path):
    content = torch.load(checkpoint, weights_only=True)
    content["state_dict"]["net.dense.weight"][1, 2] = math.nan
    torch.save(content, tmp_path / "nan.ckpt")
    with pytest.raises(InputError, match="nan.ckpt holds weights that are not finite numbers, in net.dense.weight"):
        SceneClassifier.load_from_checkpoint(tmp_path / "nan.ckpt")


def test_a_trusted_module_is_allowed():
    node = {"_target_": "torch.nn.Flatten"}
    with pytest.raises(InputError):
        check_hyperparameters({"net": node}, (), "x.ckpt")
    check_hyperparameters({"net": node}, ("torch.nn",), "x.ckpt")


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
