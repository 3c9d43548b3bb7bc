"""Random invalid settings and damaged files: each command ends well or with one sentence.

`pytest -m nightly tests/test_fuzz.py --tries 2000 --fuzz-seed 1` tries more of them.
"""

import json
import math
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command import REPOSITORY, call
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from tiny import SETTINGS

pytestmark = pytest.mark.nightly

QUICK = ["trainer.max_epochs=1", "+trainer.limit_train_batches=1", "+trainer.limit_test_batches=1", "data.cache=false"]
SMALL = ["frontend.n_fft=512", "frontend.win_length=512", "frontend.hop_length=256", "net.filters=[4,4,4,4]"]
NONSENSE = ["null", "abc", "true", "[]", "[null]", "{a:1}", "0", "-1", "1.5", "1e30", "1e-30", "inf", "nan", "2e9"]
FIXED = ("run_dir", "data.root", "data.cache_dir", "model", "hydra", "logger", "trainer._target_", "data._target_")


def leaves(node: Any, name: str = "") -> Iterator[str]:
    """Dotted names of all settings below a node."""
    for key, value in node.items():
        path = f"{name}.{key}" if name else str(key)
        if not path.startswith(FIXED):
            if isinstance(value, dict):
                yield from leaves(value, path)
            else:
                yield path


def is_one_sentence(outcome: object) -> bool:
    text = str(outcome)
    return text.startswith("error: ") and len(text.splitlines()) == 1 and "\x1b" not in text


@pytest.mark.parametrize("choice", [[], ["net=cp_mobile"], ["experiment=table3_baseline", "data.val_fraction=0.25"]])
def test_random_settings_train_or_are_one_sentence(choice, tiny, tmp_path, request):
    words = [*choice, "data=dcase", f"data.root={tiny}", *SETTINGS[:-1], *QUICK]
    words += SMALL if not choice else SMALL[:-1]
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        settings: Any = OmegaConf.to_container(compose("train", [*words, "run_dir=none"]))
    chance, faults = random.Random(request.config.getoption("--fuzz-seed")), []
    for number in range(request.config.getoption("--tries")):
        word = f"{chance.choice(list(leaves(settings)))}={chance.choice(NONSENSE)}"
        run = tmp_path / str(number)
        try:
            outcome = call(*words, word, f"hydra.run.dir={run}")
        except Exception as error:
            faults.append(f"{word}: {error!r}")
            continue
        if outcome is None:
            test = json.loads((run / "results.json").read_text())["test"]
            if not (0 <= test["accuracy"] <= 1 and 0 <= test["log_loss"] < math.inf):
                faults.append(f"{word}: {test}")
        elif not is_one_sentence(outcome):
            faults.append(f"{word}: {outcome}")
    assert not faults, "\n".join(faults)


COMMANDS = {  # words, in the folder of `good`, and files to damage
    "asc.predict": ("run/checkpoints/best.ckpt clip.wav --json", ["run/checkpoints/best.ckpt", "clip.wav"]),
    "asc.evaluate": ("run/model.onnx data=dcase data.root=data --output out", ["run/model.onnx", "data/meta.csv"]),
    "asc.report": ("run --json --no-latency", ["run/results.json", "run/predictions.csv", "run/.hydra/config.yaml"]),
    "asc.export": ("run/checkpoints/best.ckpt --output a.onnx", ["run/checkpoints/best.ckpt"]),
    "asc.bundle": ("run bundle", ["run/model.onnx", "run/results.json", "run/checkpoints/best.ckpt"]),
    "asc.check": ("data --json", ["data/meta.csv", "data/evaluation_setup/fold1_train.csv"]),
}


@pytest.fixture(scope="module")
def good(tiny, trained, tmp_path_factory) -> Path:
    """A folder with a run, its dataset and a recording."""
    folder = tmp_path_factory.mktemp("good")
    shutil.copytree(trained[0], folder / "run")
    shutil.copytree(tiny, folder / "data")
    shutil.copy(next((tiny / "audio").iterdir()), folder / "clip.wav")
    return folder


def damaged(content: bytes, chance: random.Random) -> bytes:
    """The bytes truncated, overwritten, repeated or flipped."""
    a, b = sorted(chance.randrange(len(content) + 1) for _ in range(2))
    flipped = bytearray(content)
    for _ in range(chance.choice([1, 30])):
        flipped[chance.randrange(chance.choice([len(content), min(200, len(content))]))] = chance.randrange(256)
    middle = content[a:b]
    return chance.choice([content[:a], content[:a] + chance.randbytes(b - a) + content[b:], content + middle, flipped])


@pytest.mark.parametrize("script", COMMANDS)
def test_damaged_files_are_one_sentence_or_harmless(script, good, tmp_path, request, monkeypatch, capfd):
    words, files = COMMANDS[script]
    chance, faults = random.Random(f"{script} {request.config.getoption('--fuzz-seed')}"), []
    for number in range(request.config.getoption("--tries")):
        world = tmp_path / str(number)
        shutil.copytree(good, world)
        file = chance.choice(files)
        (world / file).write_bytes(damaged((world / file).read_bytes(), chance))
        monkeypatch.chdir(world)
        try:
            outcome = call(*words.split(), script=script)
        except Exception as error:
            faults.append(f"{number} {file}: {error!r}")
        else:
            if outcome not in (None, 0, 1) and not is_one_sentence(outcome):
                faults.append(f"{number} {file}: {outcome}")
            if "Traceback" in capfd.readouterr().err:
                faults.append(f"{number} {file}: traceback")
        shutil.rmtree(world)
    assert not faults, "\n".join(faults)
