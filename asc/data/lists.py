"""Lists in the layout of TAU Urban Acoustic Scenes: the clips with their scenes and locations."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from asc.errors import InputError


@dataclass(frozen=True)
class Clip:
    """A row of a list: audio file, scene label and recording location, which is the unit of a split."""

    path: Path
    label: str
    location: str


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a tab-separated file with a header and LF or CRLF line ends.

    Raises:
        InputError: the file is missing, empty or not tab-separated, or lacks a column or a field.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: the TAU layout needs it, check data.root and data.fold") from None
    except (UnicodeDecodeError, IsADirectoryError):
        text = "\0"
    if "\0" in text:
        raise InputError(f"{path} is not a text file: replace it by a tab-separated list")
    lines = [(number, line.split("\t")) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if not lines:
        raise InputError(f"{path} is empty: add the columns {', '.join(columns)} and a row for each clip")
    (_, header), *body = lines
    lacking = [column for column in columns if column not in header]
    if lacking and len(header) == 1 and ("," in header[0] or ";" in header[0]):
        raise InputError(f"{path} is separated by commas or semicolons: separate its columns by tabs, as TAU does")
    if lacking:
        raise InputError(f"{path} lacks the column {', '.join(lacking)}: add it; the header is {' '.join(header)[:80]}")
    if not body:
        raise InputError(f"{path} has a header but no rows: add a row for each clip")
    rows = [dict(zip(header, fields, strict=False)) for _, fields in body]
    for row, (number, _) in zip(rows, body, strict=True):
        if not all(row.get(column) for column in columns):
            raise InputError(f"{path}, line {number}: fill in {', '.join(columns)}")
    return rows


def read_clips(root: Path, list_name: str, meta: dict[str, dict[str, str]]) -> list[Clip]:
    """The clips of a list; locations, and labels that the list omits, come from `meta`."""
    path = root / list_name
    rows = read_table(path, ["filename"])
    names = [row["filename"] for row in rows]
    refuse(path, "files listed more than once", [name for name, count in Counter(names).items() if count > 1])
    refuse(path, "files without a row in meta.csv", [name for name in names if name not in meta])
    for row in rows:
        row["scene_label"] = row.get("scene_label") or meta[row["filename"]]["scene_label"]
    conflicting = [row["filename"] for row in rows if row["scene_label"] != meta[row["filename"]]["scene_label"]]
    refuse(path, "labels other than in meta.csv", conflicting)
    return [Clip(root / row["filename"], row["scene_label"], meta[row["filename"]]["identifier"]) for row in rows]


def read_meta(root: Path) -> dict[str, dict[str, str]]:
    """The rows of meta.csv by file name."""
    if not root.is_dir():
        raise InputError(f"data.root={root} is not a directory: give the folder that holds meta.csv and audio/")
    rows = read_table(root / "meta.csv", ["filename", "scene_label", "identifier"])
    names = Counter(row["filename"] for row in rows)
    refuse(root / "meta.csv", "files listed more than once", [name for name, count in names.items() if count > 1])
    return {row["filename"]: row for row in rows}


def refuse(where: Path | str, what: str, names: Sequence[str], remedy: str = "correct the list") -> None:
    """Raise InputError with the count and the first few names, if there are any."""
    if names:
        raise InputError(f"{where}: {what}: {len(names)} ({shorten(names)}); {remedy}")


def shorten(names: Sequence[str], most: int = 3) -> str:
    """The first few names."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def without_missing(clips: Iterable[Clip]) -> list[Clip]:
    """The clips whose files exist."""
    return [clip for clip in clips if os.path.isfile(clip.path)]
