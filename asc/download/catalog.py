"""The datasets and teachers that can be downloaded, each described by a YAML file in `datasets/`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, Field

from asc.errors import InputError, one_line

DATASETS = Path(__file__).parent / "datasets"


@dataclass(frozen=True)
class File:
    """A file to download."""

    name: str
    url: str
    bytes: int | None  # None: unknown
    md5: str | None  # in hexadecimal; None: unknown
    folder: str  # destination below the dataset's folder, unless the file is a zip archive


class Source(BaseModel):
    """Files below one URL: a line for each, with name, bytes and MD5, or - for an unknown one."""

    url: str = Field(pattern="^https?://")
    folder: str = Field(".", pattern=r"^(\.|\w[\w.-]*)$")
    files: str = Field(pattern=r"^\s*(\w[\w.-]* +(\d+|-) +([0-9a-f]{32}|-)\s+)+$")


class Dataset(BaseModel):
    """A dataset, the terms of its use, and its files."""

    data: str  # the choice in conf/data for training on it
    title: str
    content: str  # scenes, clips and format in a few words
    page: str  # page of the publication
    licence: str
    citation: str
    use: str = "python train.py data={data} data.root={root}"  # the command that uses it
    sources: list[Source] = Field(min_length=1)

    @property
    def files(self) -> list[File]:
        files = []
        for source in self.sources:
            for line in source.files.splitlines():
                name, size, md5 = line.split()
                known_size, known_md5 = None if size == "-" else int(size), None if md5 == "-" else md5
                files.append(File(name, f"{source.url.rstrip('/')}/{name}", known_size, known_md5, source.folder))
        return files


def names() -> list[str]:
    """The names of the datasets."""
    return sorted(path.stem for path in DATASETS.glob("*.yaml"))


def read_dataset(name: str) -> Dataset:
    """The dataset of that name, or of a .yaml file in the format of those in `datasets/`.

    Raises:
        InputError: there is no such dataset, or the file has another form.
    """
    is_own = name.endswith(".yaml")
    path = Path(name) if is_own else DATASETS / f"{name}.yaml"
    if not path.is_file():
        raise InputError(f"unknown dataset {name!r}: choose from {', '.join(names())}, or give a .yaml file")
    try:
        return Dataset.model_validate({"data": "dcase" if is_own else name} | read_settings(path))
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        example = DATASETS / "tau2019.yaml"
        raise InputError(f"{path} does not describe a dataset ({one_line(error)}): follow {example}") from error


def read_settings(path: Path) -> dict[str, Any]:
    """The content of a dataset's file, merged into the content of the dataset that it `extends`."""
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    if "extends" not in settings:
        return settings
    base = read_settings(DATASETS / f"{settings['extends']}.yaml")
    return base | settings | {"sources": base["sources"] + settings["sources"]}
