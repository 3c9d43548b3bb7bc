"""Settings of runs and records of sweeps that somebody else may have written."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from command import call
from omegaconf import OmegaConf

from asc import InputError
from asc.plain_yaml import read_yaml
from asc.training.jobs import read_jobs


def laughs(opening: str, closing: str, first: str) -> str:
    """Ten lines that name each other nine times: billions of values."""
    lines = [f"a: &a {first}"]
    for before, name in zip("abcdefghi", "bcdefghij", strict=True):
        entries = [f"*{before}" if opening == "[" else f"k{number}: *{before}" for number in range(9)]
        lines.append(f"{name}: &{name} {opening}{', '.join(entries)}{closing}")
    return "\n".join(lines)


HOSTILE = {
    "aliases of lists": laughs("[", "]", "[x]"),
    "aliases of dictionaries": laughs("{", "}", "{k: 1}"),
    "itself": "a: &a [*a]",
    "a command": "a: !!python/object/apply:os.system ['touch pwned']",
    "a class": "a: !!python/name:os.system",
    "a tag": "a: !own x",
    "deep": "a: " + "[" * 100_000 + "]" * 100_000,
    "deep in lines": "".join(" " * depth + "a:\n" for depth in range(1000)),
    "a long number": "a: " + "9" * 5000,
    "a long number in sixties": "a: " + ":".join(["59"] * 3000),
    "too large": "a: " + "x" * 1_000_001,
    "two documents": "a: 1\n---\nb: 2",
    "no text": b"\xff\xfe\x00",
    "zero": b"a: \x00",
    "an open list": "a: [",
    "a list as a key": "[1, 2]: 3",
}
OTHER = {"a list": "- a", "a number": "5"}  # YAML, but no settings
HARMLESS = {  # never resolved
    "an interpolation": "a: ${oc.env:HOME}\nphase: ${oc.env:HOME}\ncheckpoint: ${oc.env:HOME}",
    "of itself": "phase: ${phase}",
    "a long path": f"phase: x\ncheckpoint: {10_000 * 'a'}/b",
    "a path with a zero": 'phase: x\ncheckpoint: "a\\0b"',
    "keys of any type": "1: 2\nnull: 3\n1.5: 4",
    "nothing": "",
}


def write(file: Path, content: str | bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_yaml_is_refused_at_once(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "file.yaml", HOSTILE[name])
    with pytest.raises(ValueError, match="."):
        read_yaml(tmp_path / "file.yaml")
    assert not (tmp_path / "pwned").exists()


def test_what_hydra_writes_is_read_as_it_reads_it(tmp_path):
    settings = {
        "optimizer": {"lr": 1e-5, "betas": [0.9, 0.999]}, "text": ["1e-5", "2020-01-01", "yes", "0x10", "null", "~"],
        "off": False, "none": None, "large": 10**12, "path": "${run_dir}/x", "infinite": float("inf"), "9": 1,
    }  # fmt: skip
    OmegaConf.save(OmegaConf.create(settings), tmp_path / "config.yaml")
    assert read_yaml(tmp_path / "config.yaml") == settings


@pytest.fixture(scope="module")
def finished(job, tmp_path_factory) -> Path:
    """The directory of a short run."""
    directory = tmp_path_factory.mktemp("finished") / "run"
    assert call(*job, "trainer.max_epochs=1", "net.filters=[4,4,4,4]", f"hydra.run.dir={directory}") is None
    return directory


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A copy of it in the directory of a sweep."""
    return shutil.copytree(finished, tmp_path / "sweep/1")


@pytest.mark.parametrize("name", ["aliases of lists", "deep", *OTHER])
def test_a_report_of_it_is_one_sentence(name, run, tmp_path):
    write(run / ".hydra/config.yaml", {**HOSTILE, **OTHER}[name])
    told = call(str(run), "--no-latency", f"--picture={tmp_path}/it.png", script="asc.report")
    assert told == (f"error: {run}/.hydra/config.yaml does not hold a run's settings: repeat the run or leave it out")


@pytest.mark.parametrize("name", HARMLESS)
def test_a_report_of_what_is_harmless_goes_well(name, run, tmp_path):
    write(run / ".hydra/config.yaml", HARMLESS[name])
    assert call(str(run), "--no-latency", f"--picture={tmp_path}/it.png", script="asc.report") is None


GOOD = {"overrides": ["seed=1"], "status": "finished", "objective": 0.5, "reason": ""}
RECORDS = {
    "text": "stopped",
    "empty": "",
    "a list": "[]",
    "null": "null",
    "deep": "[" * 100_000,
    "no text": b"\xff",
    "a long number": '{"objective": ' + "9" * 5000 + "}",
    "not a number": json.dumps({**GOOD, "objective": float("nan")}),
    "another type": json.dumps({**GOOD, "overrides": "seed=1"}),
    "numbers": json.dumps({**GOOD, "overrides": [1]}),
    "another status": json.dumps({**GOOD, "status": "lost"}),
    **{f"without {name}": json.dumps({key: GOOD[key] for key in GOOD if key != name}) for name in GOOD},
}


@pytest.mark.parametrize("content", RECORDS.values(), ids=RECORDS)
@pytest.mark.parametrize("name", ["job.json", "results.json"])
def test_a_damaged_record_of_a_sweep_is_named(name, content, run):
    write(run / "job.json", json.dumps(GOOD))
    (job,) = read_jobs(run.parent)
    assert (job.objective, job.settings) == (0.5, {"seed": "1"})
    write(run / name, content)
    with pytest.raises(InputError, match=f"^{run}/{name} is not what a sweep writes: delete {run}, and"):
        read_jobs(run.parent)


@pytest.mark.parametrize("name", ["aliases of lists", "deep", "a number"])
def test_damaged_settings_of_a_stopped_run_are_named(name, run):
    write(run / ".hydra/overrides.yaml", {**HOSTILE, **OTHER}[name])
    with pytest.raises(InputError, match=f"^{run}/.hydra/overrides.yaml is not what a sweep writes: delete {run}, "):
        read_jobs(run.parent)


def test_a_sweep_that_goes_on_names_a_damaged_record(job, tmp_path):
    write(tmp_path / "0/job.json", "{")
    told = call("-m", *job, "seed=0", f"hydra.sweep.dir={tmp_path}")
    assert str(told).startswith(f"error: {tmp_path}/0/job.json is not what a sweep writes: delete {tmp_path}/0, and")


@pytest.mark.parametrize(
    "change",
    [
        {"datamodule_hyper_parameters": {"root": "x", "cv": []}},
        {"datamodule_hyper_parameters": {"root": "x", "seed": {"a": 1}}},
        {"hyper_parameters": {"net": {"_target_": "asc.nets.PhamCNN"}, "quantization": "x"}},
    ],
)
def test_settings_of_other_types_in_a_checkpoint_are_named(change, run, tmp_path):
    file = run / "checkpoints/best.ckpt"
    content = json.loads((run / "results.json").read_text())
    write(run / "results.json", json.dumps({**content, "checkpoint": str(file)}))  # not that which was copied
    torch.save({**torch.load(file, weights_only=True), **change}, file)
    told = call(str(run), "--no-latency", f"--picture={tmp_path}/it.png", script="asc.report")
    assert told == f"error: checkpoint={file} has settings that no run has: repeat the run or leave it out"
