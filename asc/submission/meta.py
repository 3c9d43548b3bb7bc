"""The meta information of a submission: who, what system, how large, how good on the development set."""

import re
import unicodedata
from pathlib import Path
from typing import Any

import yaml

from asc.classifier import SceneClassifier
from asc.complexity import dcase2020_parameters
from asc.errors import InputError
from asc.files import regular
from asc.plain_yaml import read_yaml
from asc.predictions import read_predictions
from asc.results import read_results
from asc.submission.rules import DESCRIPTION, LABELS, check_authors, check_fields

AUGMENTATIONS = {  # of asc.augment, in the words of the challenge's result tables
    "Mixup": "mixup",
    "BetweenClass": "between-class learning",
    "FreqMixStyle": "Freq-MixStyle",
    "BandGain": "random frequency response",
    "RandomLevel": "random gain",
    "TimeStretch": "time stretching",
    "Roll": "random cropping",
    "Mask": "SpecAugment",
}
PHASES = {  # of asc.compress
    "QAT": "quantization-aware training",
    "Prune": "weight pruning",
    "PruneFilters": "filter pruning",
    "Distill": "knowledge distillation",
}
FEATURES = {"gammatone": "gammatone spectrogram", "mel": "mel energies", None: "spectrogram"}  # by filterbank
PRUNED = 0.05  # fraction of zeros that only pruning gives


def read_team(path: Path) -> dict[str, Any]:
    """Read what only the team knows: authors and, if given, description, external_datasets and source_code.

    Raises:
        InputError: the file is missing, no YAML, or has other fields.
    """
    try:
        team = yaml.safe_load(regular(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"--authors={path} cannot be read ({error.strerror}): check the path") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"--authors={path} is no YAML file: see python -m asc.submission --help") from error
    known = ("authors", "description", "external_datasets", "source_code")
    if not isinstance(team, dict) or not set(team) <= set(known):
        raise InputError(f"--authors={path} has unknown fields: expected {', '.join(known)}")
    try:
        check_authors(team.get("authors"))
        check_fields("description", team.setdefault("description", {}), ())
    except InputError as error:
        raise InputError(f"--authors={path}: {error}") from error
    unknown = sorted(map(str, set(team["description"]) - set(DESCRIPTION)))
    if unknown:
        raise InputError(f"--authors={path}, description: unknown {unknown[0]}: expected {', '.join(DESCRIPTION)}")
    if not isinstance(team.setdefault("external_datasets", []), list):
        raise InputError(f"--authors={path}: external_datasets is no list: expected name, url and total_audio_length")
    return team


def submission_label(authors: list[dict[str, Any]], number: int) -> str:
    """Name of the files: LASTNAME_INSTITUTE_task1b_NUMBER, of the corresponding author, in ASCII.

    >>> pham = {"lastname": "Phạm", "affiliation": {"abbreviation": "U. of X"}, "corresponding": True}
    >>> submission_label([pham], 2)
    'Pham_UofX_task1b_2'
    """
    author = next(author for author in authors if author.get("corresponding") is True)
    parts = [str(author["lastname"]), str(author["affiliation"]["abbreviation"])]
    names = [re.sub(r"[^A-Za-z0-9-]", "", unicodedata.normalize("NFKD", part)) for part in parts]
    return f"{names[0]}_{names[1]}_task1b_{number}"


def run_of(checkpoint: Path, model: SceneClassifier) -> Path:
    """The directory of the run that wrote the checkpoint, and whose results.json is about it.

    Raises:
        InputError: there is none.
    """
    for directory in (checkpoint.parent, checkpoint.parent.parent):
        if not (directory / "results.json").is_file():
            continue
        results = read_results(directory / "results.json")
        is_own = results.checkpoint.name == checkpoint.name and results.stage == model.stage
        if is_own and abs(results.metrics["dcase2020_size_kb"] - model.complexity().dcase2020_size_kb) < 0.01:
            return directory
    raise InputError(
        f"{checkpoint} has no results.json of its run beside it: give best.ckpt, pruned.ckpt or int8.ckpt of a "
        "finished run, in the run's directory"
    )


def development_results(run: Path) -> dict[str, Any]:
    """Accuracy in percent and log loss on the run's test clips, overall (macro-average) and by class.

    Raises:
        InputError: results.json and predictions.csv are incomplete or not of the same clips.
    """
    results, predictions = read_results(run / "results.json"), read_predictions(run / "predictions.csv")
    if set(results.labels) != set(LABELS) or predictions.labels != list(results.labels):
        raise InputError(f"{run} has results.json and predictions.csv of other labels than its checkpoint: repeat it")
    if sum(map(sum, results.confusion)) != len(predictions.targets):
        raise InputError(f"{run / 'predictions.csv'} has other clips than results.json: repeat the run")
    class_accuracy = results.class_accuracy
    targets = {label: predictions.targets == predictions.labels.index(label) for label in LABELS}
    missing = [label for label in LABELS if class_accuracy[label] is None or not targets[label].any()]
    if missing:
        raise InputError(f"{run} has no test clips of {missing[0]}: the challenge asks for its accuracy")
    return {
        "overall": {
            "accuracy": round(100 * results.metrics["macro_accuracy"], 2),
            "logloss": round(results.metrics["log_loss"], 3),
        },
        "class_wise": {
            label: {
                "accuracy": round(100 * (class_accuracy[label] or 0.0), 2),
                "logloss": round(float(predictions.losses[targets[label]].mean()), 3),
            }
            for label in LABELS
        },
    }


def describe(model: SceneClassifier, run: Path) -> dict[str, Any]:
    """The system's description as far as checkpoint and run tell; None where they do not."""
    frontend = model.hparams["frontend"]
    features = FEATURES.get(frontend.get("filterbank", "gammatone"), "spectrogram")
    if frontend["_target_"] != "asc.frontend.Spectrogram":
        features = frontend["_target_"].rpartition(".")[2]
    elif frontend.get("log", True):
        features = f"log-{features}" if features.startswith("mel") else f"log {features}"
    settings = run_settings(run)
    callbacks = [class_of(part) for part in (settings.get("callbacks") or {}).values()]
    compression = [PHASES[phase] for phase in [class_of(settings.get("phase"))] if phase in PHASES]
    total, nonzero = dcase2020_parameters(model.net)
    if nonzero < (1 - PRUNED) * total and "weight pruning" not in compression:  # by an earlier run
        compression.insert(0, "weight pruning")
    return {
        **dict.fromkeys(DESCRIPTION),
        "input_sampling_rate": f"{model.sample_rate / 1000:g}kHz",
        "acoustic_features": features,
        "data_augmentation": ", ".join(AUGMENTATIONS[name] for name in callbacks if name in AUGMENTATIONS) or None,
        "machine_learning_method": "CNN",
        "complexity_management": ", ".join(compression) or None,
    }


def run_settings(run: Path) -> dict[str, Any]:
    """The settings of a run, as Hydra stored them; empty where they are lost."""
    try:
        settings = read_yaml(run / ".hydra" / "config.yaml")
    except (OSError, ValueError):
        return {}
    return settings if isinstance(settings, dict) else {}


def class_of(node: Any) -> str:
    """Class name of a Hydra node; empty for anything else."""
    return str(node.get("_target_", "")).rpartition(".")[2] if isinstance(node, dict) else ""


def build_meta(
    model: SceneClassifier, run: Path, team: dict[str, Any], name: str, abbreviation: str, number: int
) -> dict[str, Any]:
    """All meta information; the team's description goes before what checkpoint and run tell."""
    total, nonzero = dcase2020_parameters(model.net)
    return {
        "submission": {
            "label": submission_label(team["authors"], number),
            "name": name,
            "abbreviation": abbreviation,
            "authors": team["authors"],
        },
        "system": {
            "description": {**describe(model, run), **team["description"]},
            "complexity": {
                "total_parameters": total,
                "total_parameters_non_zero": nonzero,
                "model_size": round(model.complexity().dcase2020_size_kb, 2),
            },
            "external_datasets": team["external_datasets"],
            "source_code": team.get("source_code"),
        },
        "results": {"development_dataset": development_results(run)},
    }
