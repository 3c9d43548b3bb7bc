"""The folder for the device: its files, and a README with what was measured."""

import html
import inspect
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from asc.bundle.measure import ROUNDS, measure
from asc.bundle.page import Runtime, page
from asc.classifier import SceneClassifier
from asc.errors import InputError, printable
from asc.export import export, export_frontend
from asc.inference import FRONTEND
from asc.results import Results

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
It loads nothing: ONNX Runtime Web {version} (MIT licence, Microsoft) is part of the file. Phones open it from a server;
over https they allow the microphone too.
"""


def check_destination(path: Path, force: bool) -> None:
    """Reject an existing path, unless it is a bundle and `force` replaces it.

    Raises:
        InputError: it exists, or is not a bundle.
    """
    names = set(FILES) - {"index.html"}
    is_bundle = path.is_dir() and not path.is_symlink() and all((path / name).is_file() for name in names)
    if os.path.lexists(path) and not (force and is_bundle):
        raise InputError(f"invalid DIR={path}: expected a new folder, or a bundle and --force to replace it")


def write_bundle(
    model: SceneClassifier, path: Path, results: Results | None, runtime: Runtime | None, force: bool = False
) -> dict[str, Any]:
    """Write a bundle, whole or not at all, and measure it.

    Args:
        model: of stage float, pruned or int8.
        path: of the folder.
        results: of the model's test; None if unknown.
        runtime: for index.html; None: no such page.
        force: replace an existing bundle.

    Returns:
        What `measure` returns.

    Raises:
        InputError: the model cannot be exported, or the folder exists.
        OSError: the folder cannot be written.
    """
    path = Path(os.path.abspath(path))
    check_destination(path, force)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as temporary:
        folder = Path(temporary, "new")
        folder.mkdir()
        export(model, folder / "model.onnx")
        export_frontend(model, folder / FRONTEND)
        shutil.copyfile(TEMPLATES / "example.py", folder / "example.py")
        settings = frontend_settings(model)
        labels = [printable(label) for label in model.labels]
        texts = {
            "frontend.json": json.dumps(settings, indent=2, allow_nan=False) + "\n",
            "labels.txt": "".join(f"{label}\n" for label in labels),
            "requirements.txt": REQUIREMENTS,
        }
        if runtime:
            texts["index.html"] = page(folder, settings, labels, runtime)
        for name, text in texts.items():
            (folder / name).write_text(text, "utf-8", newline="\n")
        measured = measure(folder, model.clip_samples / model.sample_rate)
        web = WEB.format(version=runtime.version) if runtime else ""
        text = readme(folder, model, labels, results, web, measured)
        (folder / "README.md").write_text(text, "utf-8", newline="\n")
        if path.exists():
            path.rename(Path(temporary, "old"))
        folder.rename(path)
    return measured


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
    folder: Path, model: SceneClassifier, labels: list[str], results: Results | None, web: str, measured: dict[str, Any]
) -> str:
    """The folder's README.md: its use, its files' sizes, time, memory and accuracy."""
    sizes = [(name, (folder / name).stat().st_size, what) for name, what in FILES.items() if (folder / name).is_file()]
    labels = [html.escape(label).replace("|", "&#124;") for label in labels]
    memory = "not reported by this system"
    if measured["memory"]:
        total, libraries = measured["memory"] / 1e6, measured["libraries"] / 1e6
        memory = f"{total:.0f} MB, of which Python and its packages {libraries:.0f}"
    accuracy = "Unknown: the run had no results.json of this network."
    if results:
        test = results.test
        values: dict[str, float | None] = {"macro-average accuracy": test.macro_accuracy, "accuracy": test.accuracy}
        values["log loss"] = test.log_loss
        values |= zip((f"accuracy, {label}" for label in labels), test.class_accuracy.values(), strict=True)
        rows = [f"| {name} | {'-' if value is None else f'{value:.3f}'} |" for name, value in values.items()]
        head = f"Of PyTorch's network on {sum(map(sum, test.confusion_matrix)):,} test clips:"
        accuracy = "\n".join([head, "", "| | |", "|---|---|", *rows])
    return (
        (TEMPLATES / "device.md")
        .read_text("utf-8")
        .format_map(
            measured
            | {
                "precision": PRECISIONS[model.stage],
                "count": len(labels),
                "labels": ", ".join(labels),
                "rate": model.sample_rate,
                "web": web,
                "files": "\n".join(f"| {name} | {size:,} | {what} |" for name, size, what in sizes),
                "milliseconds": 1000 * measured["seconds"],
                "memory": memory,
                "rounds": ROUNDS,
                "accuracy": accuracy,
            }
        )
    )
