"""Reading a checkpoint without running what it holds."""

import inspect
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_class, get_object

from asc.errors import InputError
from asc.rewrite.quantize import without_deprecation_notices


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a SceneClassifier's checkpoint: plain values and tensors; no code is run.

    Raises:
        InputError: no such file, or not such a checkpoint.
    """
    if not Path(path).is_file():
        fault = "is a directory" if Path(path).is_dir() else "does not exist"
        raise InputError(f"checkpoint={path} {fault}: give a file such as RUN/checkpoints/best.ckpt")
    foreign = f"checkpoint={path} is not a checkpoint of this program: give a file such as RUN/checkpoints/best.ckpt"
    try:
        with without_deprecation_notices():
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise InputError(foreign) from error
    if not isinstance(checkpoint, dict) or not {"hyper_parameters", "state_dict", "stage"} <= checkpoint.keys():
        raise InputError(foreign)
    return upgrade(checkpoint)


def upgrade(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint with the names of today, where an earlier version (0.1.0) wrote others."""
    quantization = checkpoint["hyper_parameters"].get("quantization")
    if quantization and "lasting" in quantization:
        quantization["unfoldable"] = quantization.pop("lasting")
    return checkpoint


def differing_settings(theirs: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    """Names in which two settings of a class differ; what an earlier version did not know has its default.

    `theirs` and `ours` are Hydra nodes of the same class, which has been built before, so that it may be looked up.
    """
    if theirs.get("_target_") != ours.get("_target_"):
        return ["_target_"]
    known = inspect.signature(get_class(ours["_target_"])).parameters
    defaults = {name: known[name].default for name in {*theirs, *ours} if name in known}
    full_theirs, full_ours = ({**defaults, **settings} for settings in (theirs, ours))
    return sorted(name for name in full_ours if plain(full_theirs[name]) != plain(full_ours[name]))


def plain(value: Any) -> Any:
    """A list for a tuple, which a checkpoint's settings do not tell apart."""
    return list(value) if isinstance(value, tuple) else value


def check_targets(node: Any, trusted: Sequence[str], path: str | Path) -> None:
    """Refuse a `_target_` that is not a class of asc, torch.optim or `trusted`: Hydra would call whatever it names.

    Raises:
        InputError: names the target.
    """
    if isinstance(node, dict):
        if "_target_" in node:
            name = str(node["_target_"])
            modules = tuple(f"{module}." for module in ("asc", "torch.optim", *trusted))
            if not (name.startswith(modules) and is_class_of(name, modules)):
                raise InputError(
                    f"{path} wants to run {name}, which is no class of asc or torch.optim: "
                    'if you trust its source, load it with trusted=("THE_MODULE",)'
                )
        node = list(node.values())
    if isinstance(node, list | tuple):
        for child in node:
            check_targets(child, trusted, path)


def is_class_of(name: str, modules: tuple[str, ...]) -> bool:
    """Whether `name` leads to a class defined in one of `modules`: `asc.classifier.torch...` begins well, but does not.

    `modules` end with a dot each.
    """
    try:
        target = get_object(name)
    except Exception:  # whatever an unknown name makes an import raise, it is no class
        return False
    return isinstance(target, type) and f"{target.__module__}.".startswith(modules)
