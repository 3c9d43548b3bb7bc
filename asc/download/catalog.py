"""The datasets that can be downloaded, each described by a YAML file in `datasets/`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, Field

from asc.errors import InputError, one_line

DATASETS = Path(__file__).parent / "datasets"


@dataclass(frozen=True)
class File:
    """A file to download.

    Attributes:
        name: file name on the server.
        url: address of the file.
        size: bytes; None: unknown.
        md5: hash in hexadecimal; None: unknown.
        folder: destination below the dataset's folder, unless the file is a zip archive.
    """

    name: str
    url: str
    size: int | None
    md5: str | None
    folder: str

    @property
    def is_archive(self) -> bool:
        return self.name.endswith(".zip")

    @property
    def is_audio(self) -> bool:
        return ".audio." in self.name


class Source(BaseModel):
    """Files below one URL: a line for each, with name, bytes and MD5, or - for an unknown one."""

    url: str = Field(pattern="^https?://")
    folder: str = Field(".", pattern=r"^(\.|\w[\w.-]*)$")
    files: str = Field(pattern=r"^\s*(\w[\w.-]* +(\d+|-) +([0-9a-f]{32}|-)\s+)+$")

    def listed(self) -> list[File]:
        files = []
        for name, size, md5 in map(str.split, self.files.splitlines()):
            known_size, known_md5 = int(size) if size != "-" else None, md5 if md5 != "-" else None
            files.append(File(name, f"{self.url.rstrip('/')}/{name}", known_size, known_md5, self.folder))
        return files


class Dataset(BaseModel):
    """A dataset, the terms of its use, and its files."""

    data: str  # the choice in conf/data for training on it
    title: str
    content: str  # scenes, clips and format in a few words
    page: str  # page of the publication
    licence: str
    citation: str
    sources: list[Source] = Field(min_length=1)

    @property
    def files(self) -> list[File]:
        return [file for source in self.sources for file in source.listed()]

    @property
    def size(self) -> int:
        """Bytes of all files whose size is known."""
        return sum(file.size or 0 for file in self.files)


def names() -> list[str]:
    """The names of the datasets."""
    return sorted(path.stem for path in DATASETS.glob("*.yaml"))


def read_dataset(name: str, mirror: str | None = None) -> Dataset:
    """The dataset of that name, or of a .yaml file in the format of those in `datasets/`.

    Args:
        name: name of the dataset, or path of a .yaml file.
        mirror: URL of a folder with the same files; None: the servers in the file.

    Raises:
        InputError: there is no such dataset, or the file has another form.
    """
    if mirror and not mirror.startswith(("http://", "https://")):
        raise InputError(f"invalid --mirror={mirror}: expected a URL starting with https://")
    is_own = name.endswith(".yaml")
    if not is_own and name not in names():
        raise InputError(f"unknown dataset {name!r}: choose from {', '.join(names())}, or give a .yaml file")
    path = Path(name) if is_own else DATASETS / f"{name}.yaml"
    try:
        dataset = Dataset.model_validate({"data": "dcase" if is_own else name} | read_settings(path))
    except OSError as error:
        raise InputError(f"{path} is not readable ({error.strerror}): choose from {', '.join(names())}") from error
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        example = DATASETS / "tau2019.yaml"
        raise InputError(f"{path} does not describe a dataset ({one_line(error)}): follow {example}") from error
    for source in dataset.sources:
        source.url = mirror or source.url
    return dataset


def read_settings(path: Path) -> dict[str, Any]:
    """The content of a dataset's file, merged into the content of the dataset that it `extends`."""
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    if "extends" not in settings:
        return settings
    base = read_settings(DATASETS / f"{settings['extends']}.yaml")
    return base | settings | {"sources": base["sources"] + settings["sources"]}
