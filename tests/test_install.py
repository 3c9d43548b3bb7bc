"""Installation: declared dependencies, a lock that fits them, and torch with its torchaudio."""

import ast
import json
import re
import shutil
import tomllib
from importlib.metadata import packages_distributions, version
from itertools import chain
from pathlib import Path

import onnx
import pytest
import torch
from command import ENVIRONMENT, REPOSITORY, TESTS, run
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
DEPENDENCIES = [Requirement(line) for line in PROJECT["dependencies"]]
EXTRAS = {name: [Requirement(line) for line in lines] for name, lines in PROJECT["optional-dependencies"].items()}
NOT_HERE = {"sounddevice": "sounddevice", "tensorflow": "tensorflow-cpu", "tf_keras": "tf-keras"}  # of other extras
FAULTS = {
    "older torch": 'raise OSError("libtorchaudio.so:\\nundefined symbol: torch_an_example")',
    "other CUDA": 'raise RuntimeError("PyTorch has CUDA version 12.8 whereas TorchAudio has CUDA version 13.0.")',
    "missing": "raise ModuleNotFoundError(\"No module named 'torchaudio'\")",
}


def names(requirements: list[Requirement]) -> set[str]:
    return {canonicalize_name(requirement.name) for requirement in requirements}


def imported(*files: Path) -> set[str]:
    """Names of the distributions whose packages the files import; the standard library and asc are omitted."""
    owners = packages_distributions()
    found: set[str] = set()
    for node in chain.from_iterable(ast.walk(ast.parse(file.read_text())) for file in files):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        modules += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
        for module in (module.partition(".")[0] for module in modules):
            found |= {*owners.get(module, [])[:1], NOT_HERE.get(module, "asc")}
    return {canonicalize_name(name) for name in found} - {"asc"}


PROGRAM = imported(*(REPOSITORY / "asc").rglob("*.py"), REPOSITORY / "train.py", REPOSITORY / "compress.py")


def test_all_that_is_imported_is_declared():
    declared = names(DEPENDENCIES)
    assert declared >= PROGRAM - names(EXTRAS["peers"] + EXTRAS["microphone"])
    assert declared | names(EXTRAS["test"]) >= imported(*TESTS.glob("*.py"))


def test_all_that_is_declared_is_imported():
    assert names(DEPENDENCIES) <= PROGRAM


@pytest.mark.nightly
def test_an_installed_package_needs_no_clone(trained, tmp_path):
    """The wheel has the settings that asc.evaluate composes, and the template of asc.report's page."""
    done = run("build", "-t", "wheel", "-d", str(tmp_path), script="-mhatchling")
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    shutil.unpack_archive(wheel, tmp_path / "site", "zip")
    place = {"cwd": tmp_path, "env": {**ENVIRONMENT, "PYTHONPATH": str(tmp_path / "site")}}
    where = run("import asc; print(asc.__file__)", script="-c", **place)
    assert where.stdout.strip() == str(tmp_path / "site/asc/__init__.py")
    checkpoint = str(trained[0] / "checkpoints/best.ckpt")
    for words in (
        ["asc.evaluate", checkpoint, "--output", "evaluation"],
        ["asc.report", str(trained[0]), "--no-latency", "--html", "report.html"],
    ):
        done = run(*words, script="-m", **place)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "evaluation/evaluation.json").exists()
    assert (tmp_path / "report.html").exists()


def test_checkpoints_and_onnx_files_name_the_version(trained):
    directory, _ = trained
    assert torch.load(directory / "checkpoints/best.ckpt", weights_only=True)["asc_version"] == PROJECT["version"]
    metadata = {entry.key: entry.value for entry in onnx.load(directory / "model.onnx").metadata_props}
    assert json.loads(metadata["asc_version"]) == PROJECT["version"]


@pytest.fixture(scope="module")
def lock() -> dict[str, str]:
    """Version of each distribution on this Python and system."""
    path = REPOSITORY / ".ci/constraints.txt"
    if not path.exists():
        pytest.skip("installed without the lock")
    lines = re.findall(r"^[^#\s].*$", path.read_text(), re.MULTILINE)
    requirements = [Requirement(line) for line in lines]
    fitting = [each for each in requirements if each.marker is None or each.marker.evaluate()]
    assert len(names(fitting)) == len(fitting)
    return {canonicalize_name(each.name): str(each.specifier).removeprefix("==") for each in fitting}


def test_the_lock_fits_what_is_declared(lock):
    for requirement in DEPENDENCIES + EXTRAS["test"]:
        assert requirement.specifier.contains(lock[canonicalize_name(requirement.name)]), requirement.name


def test_torch_and_torchaudio_are_pinned_exactly():
    pair = {each.name: str(each.specifier) for each in DEPENDENCIES if each.name in ("torch", "torchaudio")}
    assert all(re.fullmatch(r"==[\d.]+", specifier) for specifier in pair.values()), pair
    assert len(pair) == 2


@pytest.mark.parametrize(
    ("script", "words", "fault"),
    [
        ("train.py", ["hydra.run.dir={}/run"], "older torch"),
        *(
            pytest.param(*case, marks=pytest.mark.nightly)
            for case in (
                ("compress.py", ["checkpoint={}/best.ckpt", "phase=qat", "hydra.run.dir={}/run"], "other CUDA"),
                ("asc.evaluate", ["{}/best.ckpt"], "missing"),
                ("asc.export", ["{}/best.ckpt"], "older torch"),
                ("asc.report", ["{}/run"], "other CUDA"),
                ("asc.logistic_regression", ["data=synthetic"], "missing"),
            )
        ),
    ],
)
def test_a_torchaudio_that_does_not_load_is_one_sentence(script, words, fault, tmp_path):
    (tmp_path / "torchaudio.py").write_text(FAULTS[fault])
    (tmp_path / "best.ckpt").touch()
    command = [script] if script.endswith(".py") else ["-m", script]
    command += [word.format(tmp_path) for word in words]
    done = run(*command[1:], script=command[0], env={**ENVIRONMENT, "PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("error: torchaudio")
    assert version("torch") in sentence
    assert version("torchaudio") in sentence
    assert all(str(each) in sentence for each in DEPENDENCIES if each.name in ("torch", "torchaudio"))
