"""Rebuild the data that a checkpoint was trained on."""

import inspect
from typing import Any

from asc.data.datamodule import SceneData
from asc.data.folder import FolderScenes
from asc.errors import InputError

SPLIT = ("seed", "test_fraction", "split_seed")  # cannot be replaced, so that no training clip becomes a test clip
IGNORED = {"cache_dir"}  # a foreign checkpoint must not choose where files are written
COMMON = inspect.signature(SceneData).parameters.keys()  # settings of every subclass too


def scene_data(saved: dict[str, Any], given: dict[str, Any] | None = None, kind: type[SceneData] | None = None) -> Any:
    """The DataModule with a checkpoint's `datamodule_hyper_parameters`.

    A checkpoint does not name the class, so that a foreign one cannot choose which code runs: the settings tell it.

    Args:
        saved: settings from the checkpoint.
        given: settings that replace them, except those in SPLIT.
        kind: the class, if the user names one.

    Raises:
        InputError: the settings are of a class outside this package, and `kind` is None.
    """
    saved = {name: value for name, value in saved.items() if name not in IGNORED}
    own = saved.keys() - COMMON
    saved_kind = FolderScenes if own else SceneData
    if kind not in (None, saved_kind):  # other data takes the settings that all kinds have
        saved = {name: value for name, value in saved.items() if name in COMMON}
    elif unknown := own - inspect.signature(FolderScenes).parameters.keys():
        raise InputError(
            f"the checkpoint's data has settings of another program ({', '.join(sorted(unknown))}): name it by data=..."
        )
    split = {name: saved[name] for name in SPLIT if name in saved}
    return (kind or saved_kind)(**{**saved, **(given or {}), **split})
