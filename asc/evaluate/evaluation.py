"""Evaluate a classifier on the checkpoint's own clips or those of `data=...`: all values of evaluation.json."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from sklearn.metrics import confusion_matrix
from tqdm import tqdm

from asc.data import SceneData, scene_data
from asc.data.lists import TAU_NAME, Clip, read_labelled, shorten
from asc.errors import InputError, WriteError
from asc.evaluate.output import plot_groups, plot_reliability
from asc.files import atomic_write
from asc.inference import Classifier, load_classifier
from asc.loading import read_checkpoint
from asc.metrics import compute_metrics
from asc.plot import plot_confusion_matrix
from asc.results import write_predictions
from asc.settings import compose_settings

BATCH_SIZE = 16  # limits memory, independent of the checkpoint's training
LENGTH_TOLERANCE = 0.01  # s: some TAU clips are a sample longer or shorter than 10 s
RESAMPLES, LEVEL = 2000, 0.95
BINS = 15  # number in the reliability diagram, as in Guo et al., 2017
FACTORS = ("scene", "city", "device")  # to group clips by, besides the label
MISTAKE = ["filename", "true", "predicted", "probability_of_true", "probability_of_predicted", "log_loss"]
TINY = float(np.finfo(np.float32).tiny)  # the smallest probability: float32 rounds smaller ones to 0


def evaluate(arguments: argparse.Namespace) -> dict[str, Any]:
    """Compute the evaluation and write its files; return evaluation.json's content.

    Raises:
        InputError: the data or the output folder do not fit, or a probability is not a number.
    """
    directory, split = arguments.output, "list" if arguments.list else arguments.split
    classifier = load_classifier(arguments.checkpoint, arguments.trusted)
    data = evaluation_data(arguments.checkpoint, classifier, arguments.setting, split, arguments.list)
    clips, labels = data.clips[split], classifier.labels
    notes, used = notes_on(data, clips, classifier), len({clip.path for clip in clips})
    if split == "test" and used < len(data.durations) and any(item.startswith("data=") for item in arguments.setting):
        notes.append(f"{used} of {len(data.durations)} recordings are test recordings: --split all evaluates all")
    if split == "all" and trained_on(arguments.checkpoint, data.root):
        notes.append("the classifier was trained on some of these clips: on others its accuracy is lower")
    if (directory / "results.json").exists():
        raise InputError(f"invalid --output={directory}: expected a folder other than a run's")
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"--output={directory} cannot be created: {error.strerror}; choose another folder") from error
    batches = tqdm(data.loader(split), "evaluating", leave=False, disable=None, delay=2)
    rows = [classifier.probabilities(batch.wave.numpy()) for batch in batches]
    probabilities = np.concatenate(rows).astype(np.float64)
    if not np.isfinite(probabilities).all():
        raise InputError("the classifier's probabilities are not finite: use another checkpoint")
    evaluation = {
        "checkpoint": str(arguments.checkpoint),
        "stage": getattr(classifier, "stage", None),
        "data": str(data.root),
        "split": split,
        "cv": data.cv,
        "fold": data.fold,
        "labels": labels,
        "notes": notes,
        **evaluation_figures(
            clip_table(clips, data.root, labels, probabilities), labels, arguments.seed, arguments.worst
        ),
    }
    write_predictions(directory / "predictions.csv", data.root, clips, labels, probabilities)
    matrix = np.array(evaluation["test"]["confusion_matrix"])
    plot_confusion_matrix(matrix, labels, directory / "confusion_matrix.png", f"{split.capitalize()} clips")
    plot_reliability(evaluation["reliability"], directory / "reliability.png")
    plot_groups(evaluation["groups"], directory / "accuracy_by_group.png")
    with atomic_write(directory / "evaluation.json") as temporary:
        temporary.write_text(json.dumps(evaluation, indent=2, allow_nan=False) + "\n")
    return evaluation


def evaluation_data(
    checkpoint: Path, classifier: Classifier, overrides: Sequence[str], split: str, list_file: Path | None = None
) -> SceneData:
    """The data with the clips of `split`, and the classifier's sample rate, channel, clip length and labels.

    Args:
        checkpoint: a checkpoint, which names its own data, or an ONNX file, which does not.
        classifier: the classifier to evaluate.
        overrides: for Hydra, such as data=dcase data.root=DIR; without data=, they apply to the checkpoint's data.
        split: "train", "val", "test" or "all"; with `list_file`, any name.
        list_file: a list of names and labels instead.

    Raises:
        InputError: the checkpoint does not name its data, there are no such clips, or the classifier does not know
            their labels.
    """
    if others := [item for item in overrides if not item.lstrip("+~").startswith(("data=", "data."))]:
        raise InputError(f"invalid {others[0]}: expected settings of the data, data=... or data.NAME=VALUE")
    from_classifier = {
        "sample_rate": classifier.sample_rate,
        "channel": classifier.channel,
        "clip_seconds": classifier.clip_samples / classifier.sample_rate,
        "labels": classifier.labels,
    }
    if list_file:
        overrides = ["data=dcase", f"data.root={list_file.absolute().parent}", *overrides]
    content: dict[str, Any] = {}
    if any(item.startswith("data=") for item in overrides):
        data = instantiate(compose_settings("train", overrides).data, **from_classifier)
    else:
        content = {} if checkpoint.suffix == ".onnx" else read_checkpoint(checkpoint)
        saved = content.get("datamodule_hyper_parameters", {})
        if "root" not in saved:
            raise InputError(f"{checkpoint} does not name its data: add data=dcase data.root=DIR")
        settings = compose_settings("compress", ["checkpoint=given", *overrides])
        node: Any = OmegaConf.to_container(settings.data, resolve=True)
        given = {name: value for name, value in node.items() if value is not None}
        untaught = {"teacher": None, "unlabelled": None, "variants": 0}
        data = scene_data(saved, {"batch_size": BATCH_SIZE, **given, **from_classifier, **untaught})
    data.prepare_data()
    if list_file:
        data.use({split: read_labelled(list_file, data.root)})
    elif split in ("train", "val") or (data.cv and split == "test"):
        data.setup()
    else:
        data.use({split: data.read_only(split)})
    if split == "test":
        data.compare_test(content)
    if not data.clips.get(split):
        hint = "; data.val_fraction holds some out" if split == "val" else ""
        raise InputError(f"invalid --split={split}: expected one with clips in {data.root}{hint}")
    data.check_length(classifier.min_samples)
    return data


def trained_on(checkpoint: Path, root: Path) -> bool:
    """Whether a checkpoint was trained on data in this folder; unknown of an ONNX file."""
    saved = {} if checkpoint.suffix == ".onnx" else read_checkpoint(checkpoint).get("datamodule_hyper_parameters", {})
    return "root" in saved and Path(saved["root"]).resolve() == root.resolve()


def notes_on(data: SceneData, clips: Sequence[Clip], classifier: Classifier) -> list[str]:
    """Notes on clips whose length differs from training, and on labels without clips."""
    notes = []
    length = classifier.clip_samples / classifier.sample_rate
    other = [data.seconds[clip] for clip in clips if abs(data.seconds[clip] - length) > LENGTH_TOLERANCE]
    if other:
        lengths = " to ".join(dict.fromkeys(f"{seconds:.4g}" for seconds in (min(other), max(other))))
        what = [word for word, found in (("repeated", min(other) < length), ("cut", max(other) > length)) if found]
        notes.append(
            f"{len(other)} of {len(clips)} clips last {lengths} s, not {length:.4g} s as in training: "
            f"they are {' or '.join(what)} to that length"
        )
    missing = sorted(set(classifier.labels) - {clip.label for clip in clips})
    if missing:
        notes.append(f"no clips of {shorten(missing)}: the macro-average excludes them")
    return notes


def clip_table(clips: Sequence[Clip], root: Path, labels: Sequence[str], probabilities: np.ndarray) -> pd.DataFrame:
    """A row for each clip, from the probability of each label (clips, n_classes).

    Its columns are filename (below `root`), true, predicted (labels), probability_of_true, probability_of_predicted,
    is_correct, log_loss, location, and scene, city and device where all file names have them.
    """
    names = [TAU_NAME.fullmatch(clip.path.stem) for clip in clips]
    table = pd.DataFrame([name.groupdict() if name else {} for name in names]).dropna(axis=1)
    rows = [(clip.name(root), clip.label, clip.location) for clip in clips]
    table[["filename", "true", "location"]] = pd.DataFrame(rows, dtype=object)
    table["predicted"] = np.array(labels)[probabilities.argmax(1)]
    table["probability_of_predicted"] = probabilities.max(1)
    index = [labels.index(clip.label) for clip in clips]
    table["probability_of_true"] = probabilities[np.arange(len(clips)), index]
    table["is_correct"] = table.predicted == table.true
    table["log_loss"] = -np.log(table.probability_of_true.clip(TINY))
    return table


def evaluation_figures(table: pd.DataFrame, labels: list[str], seed: int, worst: int) -> dict[str, Any]:
    """Metrics of a `clip_table`, with intervals from a seeded bootstrap and a number of worst mistakes."""
    bootstrap, everything = LocationBootstrap(table, seed), np.zeros(len(table), int)  # a single group
    matrix = torch.from_numpy(confusion_matrix(table.true, table.predicted, labels=labels))
    informative = [factor for factor in FACTORS if factor in table and table[factor].nunique() > 1]
    columns = {"label": "true", **{name: name for name in informative if (table[name] != table.true).any()}}
    mistakes = table[~table.is_correct].sort_values("log_loss", ascending=False, kind="stable")
    return {
        "clips": len(table),
        "locations": bootstrap.count,
        "test": asdict(compute_metrics(matrix, float(table.log_loss.mean()), labels)),
        "interval": {
            "level": LEVEL,
            "resamples": RESAMPLES,
            "seed": seed,
            "macro_accuracy": bootstrap.interval(bootstrap.means("is_correct", table.true).mean(axis=1)),
            "accuracy": bootstrap.interval(bootstrap.means("is_correct", everything)[0]),
            "log_loss": bootstrap.interval(bootstrap.means("log_loss", everything)[0]),
        },
        "groups": {name: group_figures(table, column, labels, bootstrap) for name, column in columns.items()},
        "reliability": reliability(table),
        "worst": mistakes.head(worst)[MISTAKE].to_dict("records"),
    }


class LocationBootstrap:
    """Confidence intervals from RESAMPLES draws of as many locations as there are, with replacement.

    Clips of a location resemble each other, so resampling single clips would give intervals that are too narrow.

    Args:
        table: clips with their locations.
        seed: seed of the draws.
    """

    def __init__(self, table: pd.DataFrame, seed: int = 0):
        self.table, self.count = table, table.location.nunique()
        share = np.full(self.count, 1 / self.count)
        # (resamples, locations): how often each location is drawn
        self.draws = np.random.default_rng(seed).multinomial(self.count, share, RESAMPLES).astype(float)

    def means(self, column: str, groups: Any) -> pd.DataFrame:
        """Means of a column in each resample and group (resamples, groups); NaN if no clip of the group is drawn."""
        by_location = self.table[column].astype(float).groupby([self.table.location, groups])
        sums, counts = by_location.sum().unstack(fill_value=0), by_location.size().unstack(fill_value=0)
        with np.errstate(invalid="ignore"):
            return pd.DataFrame((self.draws @ sums.values) / (self.draws @ counts.values), columns=sums.columns)

    def interval(self, statistic: pd.Series) -> list[float] | None:
        """The interval of a statistic (resamples,); None if there is a single location."""
        values = statistic.dropna()
        if self.count < 2 or values.empty:
            return None
        return values.quantile([(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()


def group_figures(
    table: pd.DataFrame, column: str, labels: Sequence[str], bootstrap: LocationBootstrap
) -> dict[str, dict[str, Any]]:
    """Clips, locations, accuracy with its interval and log loss of each value of a column of `table`."""
    groups = table.groupby(column).agg(
        clips=("filename", "size"),
        locations=("location", "nunique"),
        accuracy=("is_correct", "mean"),
        accuracy_interval=("is_correct", lambda _: None),
        log_loss=("log_loss", "mean"),
    )
    groups = groups.loc[[label for label in labels if label in groups.index] or sorted(groups.index)]
    figures: dict = groups.to_dict("index")
    resampled = bootstrap.means("is_correct", table[column])
    for name, row in figures.items():
        row["accuracy_interval"] = bootstrap.interval(resampled[name]) if row["locations"] > 1 else None
    return figures


def reliability(table: pd.DataFrame) -> dict[str, Any]:
    """Expected calibration error (Naeini et al., 2015), mean confidence, and the non-empty bins of confidence.

    A bin has its edges (`high` belongs to the next bin, but 1 to the last), clips, mean confidence and accuracy.
    """
    edges = np.linspace(0, 1, BINS + 1)
    index = np.digitize(table.probability_of_predicted, edges[1:-1])
    bins = table.groupby(index).agg(
        clips=("filename", "size"), confidence=("probability_of_predicted", "mean"), accuracy=("is_correct", "mean")
    )
    error = ((bins.confidence - bins.accuracy).abs() * bins.clips).sum() / len(table)
    bins.insert(0, "low", edges[bins.index])
    bins.insert(1, "high", edges[bins.index + 1])
    return {
        "expected_calibration_error": float(error),
        "confidence": float(table.probability_of_predicted.mean()),
        "bins": bins.to_dict("records"),
    }
