"""Output of a run: a summary before training; results.json, confusion matrix and a table after the test."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from asc.classifier import SceneClassifier
from asc.complexity import DCASE2020_LIMIT_KB, KB
from asc.data import SceneData
from asc.files import atomic_write
from asc.plot import plot_confusion_matrix
from asc.predictions import write_predictions
from asc.training.memory import peak_gpu_memory, peak_memory


def write_results(
    directory: Path, checkpoint: Path, file: Path, model: SceneClassifier, data: SceneData, training: dict[str, float]
) -> dict:
    """Write predictions.csv, confusion_matrix.png and results.json of the tested model; return results.json's content.

    Args:
        directory: of the run.
        checkpoint: of the model.
        file: the file to deploy, whose size is reported.
        model: the tested model.
        data: whose test clips it was tested on.
        training: see `History.totals`.

    Raises:
        WriteError: a file cannot be written.
    """
    results = {
        "stage": model.stage,
        "checkpoint": str(checkpoint),
        "labels": model.labels,
        "test": asdict(model.test_metrics),
        "complexity": {**asdict(model.complexity()), "file_bytes": file.stat().st_size},
        "training": training,
    }
    write_predictions(
        directory / "predictions.csv", data.root, data.clips["test"], model.labels, model.test_probabilities
    )
    plot_confusion_matrix(
        torch.tensor(model.test_metrics.confusion_matrix), model.labels, directory / "confusion_matrix.png"
    )
    # last, since this file marks the run as finished
    with atomic_write(directory / "results.json") as temporary:
        temporary.write_text(json.dumps(results, indent=2, allow_nan=False) + "\n")
    return results


def summary(data: SceneData, model: SceneClassifier) -> str:
    """Summary of data and network before training, at most 80 columns wide."""
    cost = model.complexity()
    name = model.hparams["net"]["_target_"].rpartition(".")[2]
    kilobytes = "to be 8-bit" if model.stage == "qat" else f"{cost.parameters * 4 / KB:.1f} KB"
    _, _, n_bins, frames = model.example_features().shape
    splits = {name: clips for name, clips in data.clips.items() if clips}
    width = max(map(len, data.labels))
    lines = [f"{'clips':{width}}" + "".join(f"{name:>8}" for name in splits)]
    for label in data.labels:
        counts = (sum(clip.label == label for clip in clips) for clips in splits.values())
        lines.append(f"{label:{width}}" + "".join(f"{count:8,}" for count in counts))
    lines.append(f"{'all':{width}}" + "".join(f"{len(clips):8,}" for clips in splits.values()))
    lines += [
        "",
        f"input       {n_bins} bins x {frames} frames, from {model.clip_samples / model.sample_rate:g} s "
        f"at {model.sample_rate} Hz",
        f"network     {name}, {cost.parameters:,} parameters, {kilobytes}, {cost.macs / 1e6:.1f} M MACs",
    ]
    return "\n".join(lines)


def cache_summary(path: Path) -> str:
    """Location and size of the feature cache."""
    total = sum(file.stat().st_size for file in path.parent.glob("*.npy"))
    return (
        f"features    {path.stat().st_size / 1e6:,.1f} MB, cached in {from_home(path.parent)}\n"
        f"            ({total / 1e6:,.1f} MB in total; you may delete this folder at any time)"
    )


def from_home(path: Path) -> str:
    """The path, with ~ for the home directory."""
    home = os.path.expanduser("~")  # itself where the home directory is not known
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)


def results_table(results: dict[str, Any]) -> str:
    """The results as a table of at most 80 columns."""
    test, cost, training = results["test"], results["complexity"], results["training"]
    rows = [(label, "-" if value is None else f"{value:.3f}") for label, value in test["class_accuracy"].items()]
    width = max(16, *(len(label) for label, _ in rows))
    rule = "-" * (width + 8)
    official = cost["dcase2020_size_kb"]
    verdict = "within" if official <= DCASE2020_LIMIT_KB else "over"
    lines = ["", "test accuracy", rule]
    lines += [f"{label:{width}}{value:>8}" for label, value in rows]
    lines += [
        rule,
        f"{'macro accuracy':{width}}{test['macro_accuracy']:8.3f}",
        f"{'accuracy':{width}}{test['accuracy']:8.3f}",
        f"{'log loss':{width}}{test['log_loss']:8.3f}",
        "",
        f"size   {cost['nonzero_parameters']:,} non-zero parameters, {cost['size_kb']:.1f} KB",
        f"       {official:.1f} KB by DCASE 2020's count, {verdict} its limit of {DCASE2020_LIMIT_KB:.0f}",
        f"       {cost['file_bytes']:,} bytes in the file to deploy, graph included",
        f"time   {training['seconds']:.0f} s for {training['epochs']} epochs, "
        f"{training['clips_per_second']:.0f} clips/s",
    ]
    if memory := peak_memory():
        on_gpu = peak_gpu_memory()
        lines.append(f"memory {memory / 1e9:.1f} GB peak" + (f", {on_gpu / 1e9:.1f} GB on the GPU" if on_gpu else ""))
    return "\n".join(lines)
