"""The system's output on the evaluation set."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from torch.utils.data import DataLoader

from asc.classifier import SceneClassifier
from asc.data.datamodule import cores, workers_with_room
from asc.data.datasets import BatchSampler, WaveDataset
from asc.data.lists import Clip, refuse
from asc.errors import InputError
from asc.predictions import predict
from asc.submission.rules import CLIPS, LABELS, number_of

BATCH_SIZE = 16


def evaluation_files(root: Path, rehearsal: bool) -> list[str]:
    """Names of the evaluation set's files below `root`, in order of their numbers.

    Args:
        root: holds audio/0.wav to audio/8639.wav.
        rehearsal: accept missing files.

    Raises:
        InputError: files are missing, or have other names.
    """
    try:
        found = [f"audio/{name}" for name in os.listdir(root / "audio") if not name.startswith(".")]
    except OSError as error:
        raise InputError(f"{root} holds no folder audio/: give the folder of the evaluation set") from error
    others = sorted(name for name in found if number_of(name) is None)
    refuse(root, f"files other than audio/0.wav to audio/{CLIPS - 1}.wav", others, "remove them")
    if not found:
        raise InputError(f"{root / 'audio'} is empty: give the folder of the evaluation set")
    if not rehearsal:
        missing = sorted({f"audio/{number}.wav" for number in range(CLIPS)}.difference(found))
        refuse(root, "missing files", missing, "complete the evaluation set, or give --rehearsal")
    return sorted(found, key=lambda name: number_of(name) or 0)


def output_rows(model: SceneClassifier, root: Path, files: Sequence[str]) -> list[list[str]]:
    """Filename, predicted label and the probability of each label, for each file.

    The clips are read as in the run's test: cut or repeated to the training length.
    """
    clips = [Clip(root / name, model.labels[0], location="") for name in files]  # unlabelled: any label will do
    dataset = WaveDataset(clips, model.labels, model.sample_rate, model.clip_samples, model.channel)
    workers = workers_with_room(min(cores(), 8), BATCH_SIZE * dataset.clip_bytes) if len(clips) > BATCH_SIZE else 0
    loader = DataLoader(
        dataset,
        batch_size=None,  # the sampler yields whole batches
        sampler=BatchSampler(len(clips), BATCH_SIZE),
        num_workers=workers,
        multiprocessing_context=("fork" if sys.platform == "linux" else "spawn") if workers else None,
    )
    probabilities = predict(model, loader, len(clips))
    columns = [model.labels.index(label) for label in LABELS]
    return [
        [name, model.labels[row.argmax()], *(f"{row[column]:.6f}" for column in columns)]
        for name, row in zip(files, probabilities, strict=True)
    ]
