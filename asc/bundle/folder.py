"""The folder for the device: its files, and a README with what was measured."""

import html
import inspect
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from string import Template
from typing import Any

from asc.bundle.measure import ROUNDS, Measurement, measure
from asc.bundle.page import Runtime, page
from asc.classifier import SceneClassifier
from asc.errors import InputError, WriteError, printable
from asc.export import export, export_frontend
from asc.inference import FRONTEND
from asc.results import Results, read_results

TEMPLATES = Path(__file__).parent
REQUIREMENTS = "numpy>=1.26\nonnxruntime>=1.18\nsoundfile>=0.12\n"
FILES = {
    "model.onnx": "the network, features to probabilities",
    FRONTEND: "waveform to features",
    "frontend.json": "settings of the frontend, and the length of a window",
    "labels.txt": "the labels, one a line",
    "example.py": "recordings to probabilities",
    "requirements.txt": "what the example needs",
    "index.html": "the same in the browser",
}
PRECISIONS = {"float": "float", "pruned": "float, pruned", "int8": "8 bits"}
WEB = """
Open `index.html` with a double click: the same network runs in the browser, on recordings and the microphone, offline.
It loads nothing: ONNX Runtime Web $version (MIT licence, Microsoft) is part of the file. Phones open it from a server;
over https they allow the microphone too.
"""


def results_of(run: Path, model: SceneClassifier) -> Results | None:
    """The run's results; None if there are none of this model."""
    if not (run / "results.json").exists():
        return None
    results = read_results(run)
    return results if (results.stage, results.labels) == (model.stage, model.labels) else None


def write_bundle(
    model: SceneClassifier, path: Path, results: Results | None, runtime: Runtime | None, force: bool = False
) -> Measurement:
    """Write a bundle, whole or not at all, and measure it.

    Args:
        model: of stage float, pruned or int8.
        path: of the folder.
        results: of the model's test; None if unknown.
        runtime: for index.html; None: no such page.
        force: replace an existing bundle.

    Raises:
        InputError: the model cannot be exported, or the folder exists or cannot be written.
    """
    with atomic_folder(path, force) as folder:
        export(model, folder / "model.onnx")
        export_frontend(model, folder / FRONTEND)
        settings = frontend_settings(model)
        write(folder / "frontend.json", json.dumps(settings, indent=2, allow_nan=False) + "\n")
        labels = [printable(label) for label in model.labels]
        write(folder / "labels.txt", "".join(f"{label}\n" for label in labels))
        shutil.copyfile(TEMPLATES / "example.py", folder / "example.py")
        write(folder / "requirements.txt", REQUIREMENTS)
        if runtime:
            write(folder / "index.html", page(folder, settings, labels, runtime))
        measurement = measure(folder, model.clip_samples / model.sample_rate)
        write(folder / "README.md", readme(folder, model, labels, results, runtime, measurement))
    return measurement


def write(path: Path, text: str) -> None:
    """Write UTF-8 with the same line ends on any system."""
    path.write_text(text, "utf-8", newline="\n")


def check_destination(path: Path, force: bool) -> None:
    """Reject an existing path, unless it is a bundle and `force` replaces it.

    Raises:
        InputError: it exists, or is not a bundle.
    """
    if not os.path.lexists(path):
        return
    if not force:
        raise InputError(f"invalid DIR={path}: expected a new folder, or --force to replace a bundle")
    names = set(FILES) - {"index.html"}
    if path.is_symlink() or not path.is_dir() or not all((path / name).is_file() for name in names):
        raise InputError(f"invalid DIR={path}: expected a bundle, which --force replaces")


@contextmanager
def atomic_folder(path: Path, force: bool) -> Iterator[Path]:
    """Yield a temporary folder beside `path`, which is moved there when the block ends and removed if it fails.

    Raises:
        InputError: as in `check_destination`, or the folder cannot be written.
    """
    path = Path(os.path.abspath(path))
    check_destination(path, force)
    temporary, old = leftovers = [path.with_name(f".{path.name}.{kind}") for kind in ("tmp", "old")]
    try:
        for folder in leftovers:  # of a killed process
            shutil.rmtree(folder, ignore_errors=True)
        temporary.mkdir()
        yield temporary
        if path.exists():
            path.rename(old)
        temporary.rename(path)
    except (OSError, WriteError) as error:
        reason = getattr(error.__cause__ or error, "strerror", None) or error
        raise WriteError(f"{path} cannot be written: {reason}; free space or choose another place") from error
    finally:
        for folder in leftovers:
            shutil.rmtree(folder, ignore_errors=True)


def frontend_settings(model: SceneClassifier) -> dict[str, Any]:
    """The settings that another program needs: rate, lengths, channel, and all settings of the frontend."""
    given = {name: value for name, value in model.hparams["frontend"].items() if not name.startswith("_")}
    known = inspect.signature(type(model.frontend)).parameters
    frontend = {name: parameter.default for name, parameter in known.items()} | given
    frontend["f_max"] = frontend["f_max"] or model.sample_rate / 2
    if model.frontend.standardized:
        frontend |= {name: getattr(model.frontend, name).flatten().tolist() for name in ("mean", "std")}
    names = ("sample_rate", "clip_samples", "min_samples", "channel")
    return {name: getattr(model, name) for name in names} | {"frontend": frontend}


def readme(
    folder: Path,
    model: SceneClassifier,
    labels: list[str],
    results: Results | None,
    runtime: Runtime | None,
    measurement: Measurement,
) -> str:
    """The folder's README.md: its use, its files' sizes, time, memory and accuracy."""
    sizes = [(name, (folder / name).stat().st_size, what) for name, what in FILES.items() if (folder / name).is_file()]
    labels = [html.escape(label).replace("|", "&#124;") for label in labels]
    memory = "not reported by this system"
    if measurement.memory and measurement.libraries:
        total, libraries = measurement.memory / 1e6, measurement.libraries / 1e6
        memory = f"{total:.0f} MB, of which Python and its packages {libraries:.0f}"
    return Template((TEMPLATES / "device.md").read_text("utf-8")).substitute(
        precision=PRECISIONS[model.stage],
        count=len(labels),
        labels=", ".join(labels),
        clip_seconds=f"{measurement.clip_seconds:g}",
        rate=f"{model.sample_rate:,}",
        web=Template(WEB).substitute(version=runtime.version) if runtime else "",
        files="\n".join(f"| {name} | {size:,} | {what} |" for name, size, what in sizes),
        factor=f"{measurement.real_time_factor:.4f}",
        milliseconds=f"{1000 * measurement.seconds:.1f}",
        memory=memory,
        processor=measurement.processor,
        software=measurement.software,
        rounds=ROUNDS,
        accuracy=accuracy(labels, results),
    )


def accuracy(labels: list[str], results: Results | None) -> str:
    """The test's metrics as Markdown."""
    if results is None:
        return "Unknown: the run had no results.json of this network."
    test = results.test
    clips = sum(map(sum, test.confusion_matrix))
    values = [
        ("macro-average accuracy", test.macro_accuracy),
        ("accuracy", test.accuracy),
        ("log loss", test.log_loss),
        *zip((f"accuracy, {label}" for label in labels), test.class_accuracy.values(), strict=True),
    ]
    rows = [f"| {name} | {'-' if value is None else f'{value:.3f}'} |" for name, value in values]
    return "\n".join([f"Of PyTorch's network on {clips:,} test clips:", "", "| | |", "|---|---|", *rows])
