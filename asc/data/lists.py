"""Lists in the layout of TAU Urban Acoustic Scenes: the clips with their scenes and locations."""

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from asc.errors import InputError, one_line
from asc.files import regular

# TAU: scene-city-location-segment-device; TAU 2022 inserts the second within the segment before the device
TAU_NAME = re.compile(r"(?P<scene>[a-z_]+)-(?P<city>[a-z]+)-\d+-\d+(?:-\d+)?-(?P<device>[a-z]\d*)")


@dataclass(frozen=True)
class Clip:
    """A row of a list: audio file, scene label and recording location.

    A clip cut from a long recording starts `start` seconds into the file.
    """

    path: Path
    label: str
    location: str
    start: float = 0.0
    variant: "Variant | None" = None

    def name(self, root: Path) -> str:
        """The file's path below `root`, with "#t=SECONDS" (a media fragment) for a clip from within the file."""
        return str(self.path.relative_to(root)) + (f"#t={self.start:.10g}" if self.start else "")


@dataclass(frozen=True)
class Variant:
    """How a clip is altered (see `asc.data.variants`): a seed, and perhaps a clip that is mixed into it."""

    seed: int
    other: Clip | None


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a table with a header, separated by tabs, commas or semicolons: the first of them in the header.

    Values lose spaces at their ends, and file names a leading "./"; they get slashes for backslashes.

    Raises:
        InputError: the file is missing, empty or not such a table, or lacks a column or a value.
    """
    try:
        text = decoded(regular(path).read_bytes()).lstrip("\r\n")
        lines = list(io.StringIO(text, newline=None))  # any line ends
        separator = next((character for character in "".join(lines[:1]) if character in "\t,;"), "\t")
        table = csv.DictReader(lines, restval="", delimiter=separator, skipinitialspace=True, strict=True)
        table.fieldnames = names = [name.strip() for name in table.fieldnames or []]
        rows = [row for row in table if any(map("".join, row.values()))]  # Excel saves empty rows
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: check its name, data.root and data.fold") from None
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path} is not a table: {one_line(error)}; save it as CSV in UTF-8") from error
    if lacking := [column for column in columns if column not in names]:
        raise InputError(
            f"{path} lacks the column {', '.join(lacking)}: expected a header, separated by tabs, commas or "
            f"semicolons, not {' '.join(names)[:80] or 'an empty file'}"
        )
    if not rows:
        raise InputError(f"{path} has a header but no rows: add a row for each clip")
    for number, row in enumerate(rows, 1):
        excess: Sequence[str] = row.pop(None, [])  # type: ignore[call-overload]
        row |= {name: value.strip() for name, value in row.items()}
        if any(excess) or not all(row[column] for column in columns):
            what = f"{len(names)} values, {', '.join(columns)} among them"
            raise InputError(f"{path}, row {number} after the header: expected {what}; quote those with a separator")
        if "filename" in row:
            row["filename"] = str(PurePosixPath(row["filename"].replace("\\", "/")))
    return rows


def decoded(content: bytes) -> str:
    """The text of a file in UTF-16, UTF-8 or, as Excel saves in the West, Windows-1252.

    Raises:
        UnicodeDecodeError: it is not a text file.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252")


def read_lists(root: Path, names: Sequence[str]) -> list[list[Clip]]:
    """The clips of each list; locations, and labels that a list omits, come from meta.csv.

    Raises:
        InputError: a list or meta.csv is missing or no such table, or has a fault.
    """
    meta = {row["filename"]: row for row in checked_meta(root)}
    lists = []
    for name in names:
        listed = read_table(root / name, ["filename"])
        raise_first(list_faults(root / name, listed, meta))
        lists.append(clips_in(root, listed, meta))
    return lists


def read_labelled(path: Path, root: Path) -> list[Clip]:
    """The clips of a list that needs no meta.csv: it has labels, and perhaps locations; else each file is one.

    Raises:
        InputError: the list is missing, no such table, or has a fault.
    """
    rows = read_table(path, ["filename", "scene_label"])
    raise_first(name_faults(path, [row["filename"] for row in rows]))
    return [Clip(root / row["filename"], row["scene_label"], row.get("identifier") or row["filename"]) for row in rows]


def read_all(root: Path) -> list[Clip]:
    """The clips of meta.csv.

    Raises:
        InputError: it is missing or no such table, or has a fault.
    """
    rows = checked_meta(root)
    return clips_in(root, rows, {row["filename"]: row for row in rows})


def checked_meta(root: Path) -> list[dict[str, str]]:
    """The rows of meta.csv, without faults in their file names.

    Raises:
        InputError: as in `meta_rows`, or a name has a fault.
    """
    rows = meta_rows(root)
    raise_first(name_faults(root / "meta.csv", [row["filename"] for row in rows]))
    return rows


def list_faults(path: Path, rows: Sequence[dict[str, str]], meta: dict[str, dict[str, str]]) -> Iterator[str]:
    """One sentence for each kind of fault in the rows of a list."""
    labels = {row["filename"]: row.get("scene_label") for row in rows}
    yield from name_faults(path, [row["filename"] for row in rows])
    yield from fault(path, "files without a row in meta.csv", [name for name in labels if name not in meta])
    conflicting = [
        name for name in labels if labels[name] and name in meta and labels[name] != meta[name]["scene_label"]
    ]
    yield from fault(path, "labels other than in meta.csv", conflicting)


def clips_in(root: Path, rows: Sequence[dict[str, str]], meta: dict[str, dict[str, str]]) -> list[Clip]:
    """The clips of a list's rows; `meta` must contain every file."""
    listed = [(row["filename"], row.get("scene_label"), meta[row["filename"]]) for row in rows]
    return [Clip(root / name, label or data["scene_label"], data["identifier"]) for name, label, data in listed]


def meta_rows(root: Path) -> list[dict[str, str]]:
    """The rows of meta.csv.

    Raises:
        InputError: the folder or its meta.csv is missing, or is not such a table.
    """
    if not root.is_dir():
        raise InputError(f"data.root={root} is not a directory: give the folder that contains meta.csv and audio/")
    path = root / "meta.csv"
    if not path.exists():
        download = f"python -m asc.download DATASET {root} --meta-only"
        remedy = f"set data=folder if it has one folder per class, or get the lists of TAU by {download}"
        if inner := sorted(root.glob("*/meta.csv")):  # archives may be unpacked one folder too deep
            remedy = f"set data.root={inner[0].parent}"
        raise InputError(f"{path} does not exist: {remedy}")
    return read_table(path, ["filename", "scene_label", "identifier"])


def name_faults(path: Path, names: Sequence[str]) -> Iterator[str]:
    """One sentence for each kind of fault in the file names of a table.

    An absolute name, or one with "..", could hide that a file is in two lists.
    """
    yield from fault(path, "files listed more than once", [name for name, n in Counter(names).items() if n > 1])
    outside = [name for name in names if not is_inside(name)]
    yield from fault(path, "file names that are absolute or contain '..'", outside, "use names below the folder")


def is_inside(name: str) -> bool:
    """Whether a file name is relative and without ".."; it may be a link to another disk."""
    path = PureWindowsPath(name)  # which recognizes absolute paths of both kinds
    return not path.anchor and ".." not in path.parts


class Fault(str):
    """A sentence about names, and all of them."""

    names: Sequence[str]


def fault(where: Path | str, what: str, names: Sequence[str], remedy: str = "correct the list") -> Iterator[Fault]:
    """A sentence with the count and the first few names, if there are any."""
    if names:
        sentence = Fault(f"{where}: {what}: {len(names)} ({shorten(names)}); {remedy}")
        sentence.names = names
        yield sentence


def raise_first(faults: Iterator[str]) -> None:
    """Raise InputError with the first sentence, if there is one."""
    for sentence in faults:
        raise InputError(sentence)


def shorten(names: Sequence[str], most: int = 3) -> str:
    """The first few names."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
