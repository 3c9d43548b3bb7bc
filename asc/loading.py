"""Load checkpoints without running code from them."""

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
    """Read a SceneClassifier's checkpoint as plain values and tensors, without running code.

    Raises:
        InputError: the file is missing, or not a checkpoint of a SceneClassifier.
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
    """Rename hyperparameters that version 0.1.0 saved under another name."""
    quantization = checkpoint["hyper_parameters"].get("quantization")
    if quantization and "lasting" in quantization:
        quantization["unfoldable"] = quantization.pop("lasting")
    return checkpoint


def differing_settings(theirs: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    """Names of the settings that differ; a setting missing from an older checkpoint has its default.

    `theirs` and `ours` are Hydra nodes. The class of `ours` is imported, so it must be trusted.
    """
    if theirs.get("_target_") != ours.get("_target_"):
        return ["_target_"]
    known = inspect.signature(get_class(ours["_target_"])).parameters
    defaults = {name: known[name].default for name in {*theirs, *ours} if name in known}
    full_theirs, full_ours = ({**defaults, **settings} for settings in (theirs, ours))
    return sorted(name for name in full_ours if plain(full_theirs[name]) != plain(full_ours[name]))


def plain(value: Any) -> Any:
    """Convert a tuple to a list: saved settings do not distinguish them."""
    return list(value) if isinstance(value, tuple) else value


def check_targets(node: Any, trusted: Sequence[str], path: str | Path) -> None:
    """Refuse what Hydra would run or resolve when it builds a classifier from these hyperparameters.

    That is a `_target_` outside asc, torch.optim and `trusted`; an interpolation `${...}` in a value or a key, which
    may call a resolver; and Hydra's other keywords (`_args_`, `_partial_`...), which no saved part needs.

    Raises:
        InputError: names the target, interpolation or keyword.
    """
    if isinstance(node, str) and "${" in node:
        raise InputError(
            f"{path} holds an interpolation, {node[:80]!r}, where a plain value belongs: do not use this file"
        )
    if isinstance(node, dict):
        for key in node:
            check_targets(key, trusted, path)
            if key != "_target_" and str(key).startswith("_") and str(key).endswith("_"):
                raise InputError(f"{path} holds Hydra's keyword {key!r} among its settings: do not use this file")
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
    """Whether `name` is a class defined in one of `modules`, which end with a dot; `asc.classifier.torch...` is not."""
    try:
        target = get_object(name)
    except Exception:  # importing an unknown name may raise anything
        return False
    return isinstance(target, type) and f"{target.__module__}.".startswith(modules)
