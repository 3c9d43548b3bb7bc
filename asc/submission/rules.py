"""The rules of DCASE 2020 Challenge task 1B, and a check of what is handed in."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from asc.complexity import DCASE2020_LIMIT_KB
from asc.data.lists import refuse
from asc.errors import InputError, check_number

LABELS = ("indoor", "outdoor", "transportation")
CLIPS = 8640  # of the evaluation set: audio/0.wav to audio/8639.wav
HEADER = ("filename", "scene_label", *LABELS)
ABBREVIATION = 10  # characters at most
SYSTEMS = 4  # a team may hand in
AUTHOR = ("lastname", "firstname", "email", "affiliation")
DESCRIPTION = (
    *("input_sampling_rate", "acoustic_features", "embeddings", "data_augmentation", "machine_learning_method"),
    *("ensemble_method_subsystem_count", "decision_making", "external_data_usage", "complexity_management"),
)
EXTERNAL_DATASET = ("name", "url", "total_audio_length")


def check_output(rows: Sequence[Sequence[str]], clips: int = CLIPS) -> None:
    """Refuse an output table, without its header, that breaks the rules.

    Args:
        rows: filename, scene_label, and the probability of each label.
        clips: number of rows that there must be.

    Raises:
        InputError: names the rows.
    """
    if len(rows) != clips:
        raise InputError(f"the output has {len(rows):,} rows: the evaluation set has {clips:,} clips")
    names = [row[0] for row in rows]
    refuse_rows("names that are listed twice", [name for name, count in Counter(names).items() if count > 1])
    refuse_rows("names that are not of the evaluation set", [name for name in names if number_of(name) is None])
    refuse_rows("unknown labels", [row[0] for row in rows if row[1] not in LABELS])
    refuse_rows("no probabilities", [row[0] for row in rows if not is_distribution(row[2:])])


def refuse_rows(what: str, names: Sequence[str]) -> None:
    """Refuse rows of the output, if there are any."""
    refuse("the output", what, names, "check the evaluation set and the checkpoint")


def number_of(name: str) -> int | None:
    """The number of a clip of the evaluation set, such as 17 of audio/17.wav; None for any other name."""
    match = re.fullmatch(r"audio/(0|[1-9]\d{0,3})\.wav", name, re.ASCII)
    return int(match[1]) if match and int(match[1]) < CLIPS else None


def is_distribution(cells: Sequence[str]) -> bool:
    """Whether the cells are probabilities of the labels, which add up to 1 but for rounding."""
    try:
        values = [float(cell) for cell in cells]
    except ValueError:
        return False
    return len(values) == len(LABELS) and all(0 <= value <= 1 for value in values) and abs(sum(values) - 1) < 1e-3


def check_meta(meta: dict[str, Any]) -> None:
    """Refuse a description of the system that breaks the rules.

    Raises:
        InputError: names the field.
    """
    submission, system, results = meta["submission"], meta["system"], meta["results"]["development_dataset"]
    check_text("name", submission["name"])
    check_text("abbreviation", submission["abbreviation"])
    if len(submission["abbreviation"]) > ABBREVIATION:
        raise InputError(
            f"invalid abbreviation={submission['abbreviation']}: expected at most {ABBREVIATION} characters, "
            f"it has {len(submission['abbreviation'])}"
        )
    check_authors(submission["authors"])
    if not re.fullmatch(rf"[A-Za-z0-9-]+_[A-Za-z0-9-]+_task1b_[1-{SYSTEMS}]", submission["label"]):
        raise InputError(f"invalid label={submission['label']}: expected LASTNAME_INSTITUTE_task1b_NUMBER")
    check_fields("description", system["description"], DESCRIPTION)
    for dataset in system["external_datasets"]:
        check_fields("external_datasets", dataset, EXTERNAL_DATASET)
    complexity = system["complexity"]
    for name in ("total_parameters", "total_parameters_non_zero"):
        check_number(name, complexity[name], int, 1)
    if not 0 < complexity["model_size"] <= DCASE2020_LIMIT_KB:
        raise InputError(
            f"the network has {complexity['model_size']:.1f} KB of non-zero parameters, and the challenge allows "
            f"{DCASE2020_LIMIT_KB:.0f}: compress it by compress.py"
        )
    for figures in (results["overall"], *(results["class_wise"][label] for label in LABELS)):
        check_number("accuracy", figures["accuracy"], float, 0, 100)
        check_number("logloss", figures["logloss"], float, 0)


def check_authors(authors: Any) -> None:
    """Refuse a list of authors with a field missing, or with other than one corresponding author."""
    if not isinstance(authors, list) or not authors:
        raise InputError("authors is missing: expected a list with at least one author")
    for author in authors:
        check_fields("authors", author, AUTHOR)
        for name in AUTHOR[:3]:
            check_text(f"authors, {name}", author[name])
        check_fields("affiliation", author["affiliation"], ("abbreviation", "institute"))
    corresponding = sum(author.get("corresponding") is True for author in authors)
    if corresponding != 1:
        raise InputError(f"{corresponding} authors have corresponding: true: expected exactly one")


def check_fields(what: str, node: Any, names: Sequence[str]) -> None:
    """Refuse a node that is no mapping, or lacks a field."""
    if not isinstance(node, dict):
        raise InputError(f"{what} is no mapping: expected the fields {', '.join(names)}")
    missing = [name for name in names if name not in node]
    if missing:
        raise InputError(f"{what} lacks {', '.join(missing)}: expected the fields {', '.join(names)}")


def check_text(what: str, value: Any) -> None:
    """Refuse a text that is missing or empty."""
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{what} is missing: expected a text")
