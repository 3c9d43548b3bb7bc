"""The data that a checkpoint remembers."""

import inspect
from typing import Any

from asc.data.datamodule import SceneData
from asc.data.folder import FolderScenes
from asc.errors import InputError

SPLIT = ("seed", "test_fraction", "split_seed")  # kept as they were, so that no clip changes sides
WRITTEN = {"cache_dir"}  # says where files are written, which a foreign checkpoint must not
COMMON = inspect.signature(SceneData).parameters.keys()  # settings of every subclass too


def scene_data(saved: dict[str, Any], given: dict[str, Any] | None = None, kind: type[SceneData] | None = None) -> Any:
    """The data with the settings of a checkpoint, `datamodule_hyper_parameters`, and further ones.

    The settings tell the class. A checkpoint names none, so that a foreign one cannot choose what is run.

    Args:
        saved: settings from the checkpoint; not those of WRITTEN.
        given: settings that replace them, apart from those of SPLIT.
        kind: the class, where the user names one.

    Raises:
        InputError: the settings are of a class outside this package, which `kind` does not name.
    """
    saved = {name: value for name, value in saved.items() if name not in WRITTEN}
    own = saved.keys() - COMMON
    remembered = FolderScenes if own else SceneData
    if kind not in (None, remembered):  # other data: what both kinds know
        saved = {name: value for name, value in saved.items() if name in COMMON}
    elif unknown := own - inspect.signature(FolderScenes).parameters.keys():
        raise InputError(
            f"the checkpoint's data has settings of another program ({', '.join(sorted(unknown))}): name it by data=..."
        )
    split = {name: saved[name] for name in SPLIT if name in saved}
    return (kind or remembered)(**{**saved, **(given or {}), **split})
