"""Load checkpoints without running code from them."""

import inspect
import os
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import asc.nets
from asc.errors import InputError
from asc.frontend import Spectrogram
from asc.quantization.quantize import without_deprecation_notices

ROLES = ("frontend", "net", "optimizer", "scheduler")  # hyperparameters that are nodes: a class and its arguments


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a SceneClassifier's checkpoint as plain values and tensors, without running code.

    Raises:
        InputError: the file is missing, or not a checkpoint of a SceneClassifier.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"a checkpoint is given by its path, not as {type(path).__name__}: give a file of a run")
    if not os.path.isfile(path):
        fault = "is a directory" if os.path.isdir(path) else "does not exist"
        raise InputError(f"checkpoint={path} {fault}: give a file such as RUN/checkpoints/best.ckpt")
    if not os.access(path, os.R_OK):
        raise InputError(f"checkpoint={path} cannot be read: check its permissions")
    foreign = f"checkpoint={path} is not a checkpoint of this program: give a file such as RUN/checkpoints/best.ckpt"
    try:
        with without_deprecation_notices():
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # PyTorch's reader meets bytes of any kind with exceptions of any kind
        raise InputError(foreign) from error
    if not isinstance(checkpoint, dict) or not {"hyper_parameters", "state_dict", "stage"} <= checkpoint.keys():
        raise InputError(foreign)
    for part in ("hyper_parameters", "state_dict", "datamodule_hyper_parameters"):
        content = checkpoint.get(part, {})
        if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
            what = {"state_dict": "weights", "datamodule_hyper_parameters": "settings of data"}.get(part, "settings")
            raise InputError(f"checkpoint={path} holds no {what} of a classifier: it is damaged, train again")
    return upgrade(checkpoint)


def upgrade(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Rename hyperparameters that version 0.1.0 saved under another name."""
    quantization = checkpoint["hyper_parameters"].get("quantization")
    if isinstance(quantization, dict) and "lasting" in quantization:
        quantization["unfoldable"] = quantization.pop("lasting")
    return checkpoint


def differing_settings(theirs: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    """Names of the settings that differ; a setting missing from an older checkpoint has its default.

    `theirs` and `ours` are Hydra nodes, which may hold further nodes. The classes of `ours` are imported: trust them.
    """
    if theirs.get("_target_") != ours.get("_target_"):
        return ["_target_"]
    known = inspect.signature(pkgutil.resolve_name(ours["_target_"])).parameters
    defaults = {name: known[name].default for name in {*theirs, *ours} if name in known}
    full_theirs, full_ours = ({**defaults, **settings} for settings in (theirs, ours))
    return sorted(name for name in full_ours if differ(full_theirs[name], full_ours[name]))


def differ(theirs: Any, ours: Any) -> bool:
    """Whether two settings differ; saved ones do not distinguish tuples and lists."""
    if isinstance(theirs, dict) and isinstance(ours, dict) and "_target_" in ours:
        return bool(differing_settings(theirs, ours))
    theirs, ours = (list(value) if isinstance(value, tuple) else value for value in (theirs, ours))
    return theirs != ours


def build(node: dict[str, Any], **arguments: Any) -> Any:
    """An instance of the class that a Hydra node names, from plain values.

    Hydra's own `instantiate` would resolve interpolations, which can run code, and nested nodes.

    Raises:
        InputError: the node names no class, or the class refuses its arguments.
    """
    if not isinstance(node.get("_target_"), str):
        raise InputError(f"a group of settings names no class ({str(node)[:60]}): give its _target_")
    settings = {name: value for name, value in node.items() if name != "_target_"}
    try:
        return pkgutil.resolve_name(node["_target_"])(**settings, **arguments)
    except InputError:
        raise
    except (TypeError, ValueError, ImportError, AttributeError) as error:
        why = " ".join(str(error).split())
        raise InputError(f"{node['_target_']} refuses its settings ({why}): correct them") from error


def known_classes(role: str) -> set[str]:
    """Names of the classes that a checkpoint may name in this role."""
    if role == "net":
        return {f"asc.nets.{name}" for name in asc.nets.__all__}
    if role == "frontend":
        return {f"{Spectrogram.__module__}.{Spectrogram.__name__}"}
    module: Any = torch.optim if role == "optimizer" else torch.optim.lr_scheduler
    return {f"{module.__name__}.{name}" for name in module.__all__ if name[0].isupper()}


def check_hyperparameters(hyperparameters: dict[str, Any], trusted: Sequence[str], path: str | Path) -> None:
    """Refuse hyperparameters that could do more than build a classifier.

    Each of ROLES names a class of a closed list or a trusted module; everything else is a plain value, but no
    interpolation `${...}`, which may call a resolver, and no keyword of Hydra (`_args_`, `_partial_`...).

    Raises:
        InputError: names what is refused.
    """
    for name, value in hyperparameters.items():
        if name in ROLES and value is not None:
            node = dict(value) if isinstance(value, dict) else {}
            check_target(name, node.pop("_target_", None), trusted, path)
            value = node
        check_plain({name: value}, path)


def check_target(role: str, target: Any, trusted: Sequence[str], path: str | Path) -> None:
    """Refuse a class outside the closed list of its role, unless its module is trusted."""
    check_plain(target, path)
    is_known = isinstance(target, str) and target in known_classes(role)
    is_trusted = isinstance(target, str) and target.startswith(tuple(f"{module}." for module in trusted))
    if not is_known and not (is_trusted and is_class(target)):
        raise InputError(
            f"{path} wants to run {str(target)[:80]}, which is no class of asc or torch.optim for its {role}: "
            'if you trust its source, load it with trusted=("THE_MODULE",)'
        )


def check_plain(value: Any, path: str | Path) -> None:
    """Refuse all but numbers, text, and lists and dictionaries of them; also what Hydra would act on."""
    if isinstance(value, str):
        if "${" in value:
            raise InputError(
                f"{path} holds an interpolation, {value[:80]!r}, where a plain value belongs: do not use this file"
            )
    elif isinstance(value, dict):
        for key, inner in value.items():
            check_plain(key, path)
            if str(key).startswith("_") and str(key).endswith("_"):
                raise InputError(f"{path} holds Hydra's keyword {str(key)!r} among its settings: do not use this file")
            check_plain(inner, path)
    elif isinstance(value, list | tuple):
        for inner in value:
            check_plain(inner, path)
    elif not isinstance(value, bool | int | float | None):
        raise InputError(f"{path} holds a {type(value).__name__} among its settings: do not use this file")


def check_size(hyperparameters: dict[str, Any], path: str | Path) -> None:
    """Refuse a network that has more values than the file has bytes, before memory is allocated for it.

    Raises:
        InputError: gives both numbers.
    """
    if hyperparameters["net"]["_target_"] not in known_classes("net"):
        return  # a trusted class may do anything
    with torch.device("meta"):
        net = build(hyperparameters["net"], n_classes=len(hyperparameters["labels"]))
    values, size = sum(value.numel() for value in net.parameters()), Path(path).stat().st_size
    if values > size:
        raise InputError(
            f"{path} claims a network of {values:,} values, which do not fit its {size:,} bytes: "
            "it is damaged, train again"
        )


def check_finite(state: dict[str, Any], path: str | Path) -> None:
    """Refuse weights that are not finite numbers: every probability would be NaN.

    Raises:
        InputError: names the first array.
    """
    for name, value in state.items():
        if torch.is_tensor(value) and value.is_floating_point() and not value.isfinite().all():
            raise InputError(f"{path} holds weights that are not finite numbers, in {name}: train again")


def is_class(name: str) -> bool:
    """Whether a dotted name leads to a class; imports its module."""
    try:
        return isinstance(pkgutil.resolve_name(name), type)
    except Exception:  # importing a module may raise anything
        return False
