"""The clips to evaluate on: the checkpoint's own, or those of `data=...`."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import instantiate
from omegaconf import OmegaConf
from tqdm import tqdm

from asc.data import SceneData, scene_data
from asc.data.datasets import WaveBatch
from asc.data.lists import Clip, shorten
from asc.errors import InputError
from asc.inference import Classifier
from asc.loading import read_checkpoint
from asc.settings import compose_settings

BATCH_SIZE = 16  # limits memory, independent of the checkpoint's training
LENGTH_TOLERANCE = 0.01  # s: some TAU clips are a sample longer or shorter than 10 s


def evaluation_data(checkpoint: Path, classifier: Classifier, overrides: Sequence[str]) -> SceneData:
    """The data after `setup`, with the classifier's sample rate, channel, clip length and order of labels.

    Args:
        checkpoint: a checkpoint, which names its own data, or an ONNX file, which does not.
        classifier: the classifier to evaluate.
        overrides: for Hydra, such as data=dcase data.root=DIR; without data=, they apply to the checkpoint's data.

    Raises:
        InputError: the checkpoint does not name its data, or the dataset has labels that the classifier does not know.
    """
    from_classifier = {
        "sample_rate": classifier.sample_rate,
        "channel": classifier.channel,
        "clip_seconds": classifier.clip_samples / classifier.sample_rate,
    }
    if any(item.startswith("data=") for item in overrides):
        data = instantiate(compose_settings("train", overrides).data, **from_classifier)
    else:
        saved = {}
        if checkpoint.suffix != ".onnx":
            saved = read_checkpoint(checkpoint).get("datamodule_hyper_parameters", {})
        if "root" not in saved:
            raise InputError(f"{checkpoint} does not name its data: add data=dcase data.root=DIR")
        settings = compose_settings("compress", ["checkpoint=given", *overrides])
        node: Any = OmegaConf.to_container(settings.data, resolve=True)
        given = {name: value for name, value in node.items() if value is not None}
        data = scene_data(saved, {"batch_size": BATCH_SIZE, **given, **from_classifier})
    data.prepare_data()
    data.setup()
    unknown = sorted(set(data.labels) - set(classifier.labels))
    if unknown:
        raise InputError(
            f"invalid data.root={data.root}: expected the labels {shorten(classifier.labels, 10)}, as in {checkpoint}, "
            f"not {shorten(unknown)}"
        )
    data.labels = classifier.labels
    data.check_length(classifier.min_samples)
    return data


def clips_of(data: SceneData, split: str) -> list[Clip]:
    """The clips of a split.

    Raises:
        InputError: there are none.
    """
    if not data.clips[split]:
        raise InputError(f"invalid --split={split}: expected one with clips; data.val_fraction holds out val clips")
    return data.clips[split]


def probabilities_of(clips: Sequence[Clip], batches: Iterable[WaveBatch], classifier: Classifier) -> np.ndarray:
    """Probabilities (clips, n_classes) of clips in batches.

    Raises:
        InputError: a probability is not a number.
    """
    rows = []
    with tqdm(total=len(clips), unit=" clips", leave=False, disable=None, delay=2) as bar:
        for batch in batches:
            rows.append(classifier.probabilities(batch.wave.numpy()))
            bar.update(len(batch.wave))
    probabilities = np.concatenate(rows).astype(np.float64)
    if not np.isfinite(probabilities).all():
        raise InputError("the classifier's probabilities are not finite: use another checkpoint")
    return probabilities


def notes_on(data: SceneData, clips: Sequence[Clip], classifier: Classifier) -> list[str]:
    """Notes on clips whose length differs from training, and on labels without clips."""
    notes = []
    length = classifier.clip_samples / classifier.sample_rate
    other = [data.seconds[clip] for clip in clips if abs(data.seconds[clip] - length) > LENGTH_TOLERANCE]
    if other:
        shortest, longest = (f"{seconds:.4g}" for seconds in (min(other), max(other)))
        lengths = shortest if shortest == longest else f"{shortest} to {longest}"
        what = [word for word, found in (("repeated", min(other) < length), ("cut", max(other) > length)) if found]
        notes.append(
            f"{len(other)} of {len(clips)} clips last {lengths} s, not {length:.4g} s as in training: "
            f"they are {' or '.join(what)} to that length"
        )
    missing = sorted(set(classifier.labels) - {clip.label for clip in clips})
    if missing:
        notes.append(f"no clips of {shorten(missing)}: the macro-average excludes them")
    return notes
