"""The datasets that can be downloaded, each described by a YAML file in `datasets/`."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from asc.errors import InputError
from asc.files import regular

DATASETS = Path(__file__).parent / "datasets"


@dataclass(frozen=True)
class File:
    """A file to download.

    Attributes:
        name: its name on the server.
        url: where it is.
        size: its bytes; None: not known.
        md5: its MD5 in hexadecimal; None: not known.
        folder: where it belongs below the dataset's folder, unless it is a zip archive.
    """

    name: str
    url: str
    size: int | None
    md5: str | None
    folder: str = "."

    @property
    def is_archive(self) -> bool:
        return self.name.endswith(".zip")

    @property
    def is_audio(self) -> bool:
        return ".audio." in self.name


@dataclass(frozen=True)
class Dataset:
    """What a dataset is, on which terms it may be used, and its files.

    Attributes:
        data: the choice of conf/data that trains on it.
        title: its name.
        content: scenes, clips and format in a few words.
        page: where it is published.
        licence: the terms.
        citation: the publication to cite.
        files: all files.
    """

    data: str
    title: str
    content: str
    page: str
    licence: str
    citation: str
    files: tuple[File, ...]

    @property
    def size(self) -> int:
        """Bytes of all files whose size is known."""
        return sum(file.size or 0 for file in self.files)


def names() -> list[str]:
    """The names of the datasets."""
    return sorted(path.stem for path in DATASETS.glob("*.yaml"))


def read_dataset(name: str, mirror: str | None = None) -> Dataset:
    """The dataset of that name, or of a .yaml file of one's own in the form of those in `datasets/`.

    Args:
        name: of the dataset, or the path of a .yaml file.
        mirror: URL of a folder with the same files; None: where they are published.

    Raises:
        InputError: there is no such dataset, or the file is not of that form.
    """
    if not name.endswith(".yaml") and name not in names():
        raise InputError(f"unknown dataset {name!r}: choose from {', '.join(names())}, or give a .yaml file")
    path = Path(name) if name.endswith(".yaml") else DATASETS / f"{name}.yaml"
    try:
        settings = read_settings(path)
        files = [file for source in settings["sources"] for file in source_files(source, mirror)]
        texts = {key: plain_text(settings[key]) for key in ("title", "content", "page", "licence", "citation")}
    except OSError as error:
        raise InputError(f"{path} is not readable ({error.strerror}): choose from {', '.join(names())}") from None
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        example = DATASETS / "tau2019.yaml"
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"{path} does not describe a dataset ({why}): write it like {example}") from None
    return Dataset(data=name if path.parent == DATASETS else "dcase", files=tuple(files), **texts)


def read_settings(path: Path) -> dict[str, Any]:
    """The content of a dataset's file, with what it takes over from the dataset that it `extends`."""
    settings = yaml.safe_load(regular(path).read_text(encoding="utf-8"))
    if "extends" in settings:
        base = read_settings(DATASETS / f"{settings['extends']}.yaml")
        settings = base | settings | {"sources": base["sources"] + settings["sources"]}
    return settings


def source_files(source: dict[str, str], mirror: str | None) -> list[File]:
    """The files of a source: lines with name, bytes and MD5, or - for what is not known.

    Raises:
        ValueError: the URL or a line is not of that form, or there are no lines.
    """
    url = (mirror or source["url"]).rstrip("/") + "/"
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"{url} is not of HTTP")
    folder = source.get("folder", ".")
    files = []
    for line in source["files"].splitlines():
        name, size, md5 = line.split()
        for plain in (name, folder.removesuffix(".") or name):
            if not re.fullmatch(r"\w[\w.-]*", plain):
                raise ValueError(f"{plain!r} is not a plain name")
        files.append(File(name, url + name, int(size) if size != "-" else None, md5 if md5 != "-" else None, folder))
    if not files:
        raise ValueError("no files")
    return files


def plain_text(text: str) -> str:
    """The text itself.

    Raises:
        ValueError: it holds control characters, which a terminal would take for commands.
    """
    if not text.isprintable():
        raise ValueError(f"control characters in {text!r}")
    return text
