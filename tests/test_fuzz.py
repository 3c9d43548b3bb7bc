"""Every setting of every group with values of wrong type, sign and size: a sentence, or a run that ends well.

`pytest tests/test_fuzz.py --tries 2000 --fuzz-seed 1` tries more of them.
"""

import copy
import json
import math
import random
import runpy
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command import REPOSITORY
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from tiny import SETTINGS

from asc.cli import exit_on_input_error

QUICK = ["trainer.max_epochs=1", "+trainer.limit_train_batches=1", "+trainer.limit_test_batches=1", "data.cache=false"]
SMALL = ["frontend.n_fft=512", "frontend.win_length=512", "frontend.hop_length=256"]
CHOICES = {  # of groups, which together have every setting of a command
    "train": [
        [],
        ["net=cp_mobile", "frontend=log_mel", "callbacks=[mixup,freq_mixstyle,filter_augment]"],
        ["net=dcase2020_baseline", "frontend=log_mel", "callbacks=[gain,time_stretch,average]"],
        ["~scheduler", "callbacks=[between_class]", "data.val_fraction=0.25"],
    ],
    "compress": [
        ["phase=qat"],
        ["phase=prune", "callbacks=[average]"],
        ["phase=prune_filters", "data=dcase", "data.root={tiny}", "data.batch_size=4"],
        ["phase=distill", "net=pham_cnn"],
    ],
}
NONSENSE = [
    *(None, "", "abc", "5", True, [], {}, [None], [[1, 2]], {"a": 1}, "null", "../..", "\x1b[31mred", "$x_{$"),
    *(0, -1, 1, 2, 1.5, -0.1, 1e-30, 1e9, 1e30, 2**31, 2**63, 10**30, math.inf, -math.inf, math.nan),
]
SKIPPED = (
    "run_dir",
    "callbacks.checkpoint.dirpath",
    "data.root",
    "data.cache_dir",
    "model",
    "data._target_",
    "trainer._target_",
    "logger",
)


def leaves(node: Any, name: str = "") -> Iterator[str]:
    """Dotted names of all settings, of the groups too."""
    for key, value in node.items():
        path = f"{name}.{key}" if name else str(key)
        if not path.startswith(SKIPPED):
            yield path
            if isinstance(value, dict):
                yield from leaves(value, path)


@pytest.fixture(scope="module")
def configurations(tiny, trained) -> dict[str, list[DictConfig]]:
    """The settings of each command, in several choices of groups."""
    common = {
        "train": ["data=dcase", f"data.root={tiny}", *SETTINGS[:-1], *SMALL],
        "compress": [f"checkpoint={trained[0]}/checkpoints/best.ckpt", "data.num_workers=0"],
    }
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        return {
            command: [
                compose(
                    command, [word.format(tiny=tiny) for word in [*choice, *common[command], "run_dir=none", *QUICK]]
                )
                for choice in choices
            ]
            for command, choices in CHOICES.items()
        }


@pytest.mark.parametrize("command", CHOICES)
def test_nonsense_is_refused_in_a_sentence_or_harmless(command, configurations, tmp_path, capsys, monkeypatch, request):
    monkeypatch.chdir(tmp_path)
    job = runpy.run_path(str(REPOSITORY / f"{command}.py"))[command]
    chance = random.Random(request.config.getoption("--fuzz-seed"))
    refused, faults = 0, []
    for number in range(request.config.getoption("--tries")):
        settings: Any = OmegaConf.to_container(chance.choice(configurations[command]))
        name, value = chance.choice(list(leaves(settings))), chance.choice(NONSENSE)
        cfg = OmegaConf.create(copy.deepcopy(settings))
        OmegaConf.update(cfg, name, value, merge=False)
        cfg.run_dir = str(tmp_path / str(number))
        said = outcome(job, cfg)
        refused += said is not None
        if said is None:
            good = sane(Path(cfg.run_dir))
        else:
            good = said.startswith("error: ") and len(said.splitlines()) == 1 and "\x1b" not in said
        if not good:
            faults.append(f"{name}={value!r}: {said}")
        capsys.readouterr()
    assert not faults, "\n".join(faults)
    assert refused


def outcome(job: Any, cfg: DictConfig) -> str | None:
    """The sentence of a run that is refused; None of one that ends well, within 20 s."""
    start = time.monotonic()
    try:
        with warnings.catch_warnings(), exit_on_input_error():
            warnings.simplefilter("ignore")
            job(cfg)
    except SystemExit as stop:
        return str(stop.code)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None if time.monotonic() - start < 20 else "over 20 s"


def sane(run: Path) -> bool:
    """Whether the results of a run are plain numbers."""
    test = json.loads((run / "results.json").read_text())["test"]
    return 0 <= test["accuracy"] <= 1 and 0 <= test["log_loss"] < math.inf
