"""The labels that a teacher doubts: perhaps mislabelled recordings."""

from pathlib import Path
from typing import Any

import torch

from asc.check.dataset import Dataset
from asc.data import FolderScenes, SceneData
from asc.data.datasets import class_indices
from asc.errors import printable
from asc.table import text_table
from asc.teachers import EfficientAT, OnnxTeacher, Teacher
from asc.teachers.targets import teach

MAX_TAGS = 3  # sounds shown for each clip
MAX_ROWS = 20


def doubts(dataset: Dataset, lists: list[str], weights: str) -> dict[str, Any]:
    """What a teacher makes of the labels, by cross-validation by location.

    Args:
        dataset: a dataset without faults.
        lists: the lists of training and test clips, for the TAU layout.
        weights: path of a file for `EfficientAT`, or for `OnnxTeacher`, which ends in .onnx.

    Returns:
        teacher_accuracy, macro-average, and doubts: for each clip that the teacher assigns to another class, the least
        probable label first, its file, label, the probability of each label, and of the sounds it hears.
    """
    teacher: Teacher = OnnxTeacher(weights) if Path(weights).suffix == ".onnx" else EfficientAT(weights)
    root = str(dataset.root)
    data = (
        FolderScenes(root) if dataset.layout == "folder" else SceneData(root, train_list=lists[0], test_list=lists[1])
    )
    data.setup()
    clips = [*data.clips["train"], *data.clips["val"], *data.clips["test"]]
    classes = class_indices(clips, data.labels).numpy()
    embeddings = data.embeddings(teacher, clips)
    places = [clip.location for clip in clips]
    targets = teach(embeddings, classes, places, embeddings[:0], len(data.labels))
    found: list[dict[str, Any]] = []
    for clip, own, probabilities, embedding in zip(clips, classes, targets.labelled, embeddings, strict=True):
        if probabilities.argmax() != own:
            by_label = dict(zip(data.labels, probabilities.tolist(), strict=True))
            sounds = sounds_heard(teacher, torch.tensor(embedding))
            name = clip.name(data.root)
            found.append({"file": name, "label": clip.label, "probabilities": by_label, "sounds": sounds})
    found.sort(key=lambda entry: entry["probabilities"][entry["label"]])
    return {"teacher_accuracy": targets.accuracy, "doubts": found}


def sounds_heard(teacher: Teacher, embedding: torch.Tensor) -> dict[str, float]:
    """The most probable sounds in a clip, from its embedding (width,)."""
    with torch.inference_mode():
        probabilities, indices = teacher.tags(embedding[None])[0].sigmoid().topk(min(MAX_TAGS, len(teacher.tag_names)))
    return {
        teacher.tag_names[index]: value for index, value in zip(indices.tolist(), probabilities.tolist(), strict=True)
    }


def doubts_table(found: dict[str, Any]) -> str:
    """The clips whose labels the teacher doubts most."""
    rows = []
    for entry in found["doubts"][:MAX_ROWS]:
        probabilities = entry["probabilities"]
        guess = max(probabilities, key=probabilities.__getitem__)
        labels = [f"{label} {100 * probabilities[label]:.0f} %" for label in (entry["label"], guess)]
        sounds = "; ".join(f"{name} {100 * value:.0f} %" for name, value in entry["sounds"].items())
        rows.append([printable(entry["file"]), *labels, sounds])
    heading = (
        f"{len(found['doubts'])} labels that the teacher doubts; it is right for "
        f"{100 * found['teacher_accuracy']:.1f} % (macro-average, cross-validation by location)"
    )
    hidden = len(found["doubts"]) - MAX_ROWS
    table = text_table(rows, ["recording", "label", "teacher", "sounds"], left=(0, 1, 2, 3)) if rows else ""
    return "\n".join(filter(None, [heading, table, f"and {hidden} more, which --json prints" if hidden > 0 else ""]))
