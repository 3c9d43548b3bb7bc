"""Load checkpoints without running code from them.

`torch.load(weights_only=True)` reads plain values and tensors. The hyperparameters name the classes of four parts; each
must be on an allow-list, or in a module that the caller trusts. `build` calls these classes itself, without Hydra, so
that interpolations and nested nodes stay plain values.
"""

import inspect
import os
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import asc.nets
import asc.teachers
from asc.errors import InputError, one_line
from asc.frontend import Spectrogram
from asc.quantization.convert import without_deprecation_notices

RENAMED = {  # hyperparameters of version 0.1 and their current names
    "body_lr": "backbone_lr_scale",
    "one_input_norm": "bn_first_block_only",
}
REQUIRED = ("frontend", "net", "optimizer")  # parts that each classifier has
EXPECTED = "expected a checkpoint of SceneClassifier, such as RUN/checkpoints/best.ckpt"


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a SceneClassifier's checkpoint as plain values and tensors, without running code.

    Raises:
        InputError: the file is missing, or not a checkpoint of a SceneClassifier.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"invalid checkpoint of type {type(path).__name__}: expected the path of a file")
    try:
        with without_deprecation_notices():
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises arbitrary exceptions on invalid bytes
        reason = getattr(error, "strerror", None) or one_line(error).partition(". ")[0]
        raise InputError(f"invalid checkpoint={path}: {EXPECTED} ({reason})") from error
    parts = ("hyper_parameters", "state_dict")
    if not isinstance(checkpoint, dict) or not all(isinstance(checkpoint.get(part), dict) for part in parts):
        raise InputError(f"invalid checkpoint={path}: {EXPECTED}")
    return {**checkpoint, "hyper_parameters": renamed(checkpoint["hyper_parameters"])}


def renamed(hyperparameters: dict[str, Any]) -> dict[str, Any]:
    """The hyperparameters under their current names; nodes may be nested."""
    return {
        RENAMED.get(name, name): renamed(value) if isinstance(value, dict) else value
        for name, value in hyperparameters.items()
    }


def differing_settings(theirs: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    """Names of the differing settings; a setting missing from an older checkpoint has its default.

    `theirs` and `ours` are Hydra nodes, possibly nested. The classes of `ours` are imported: trust them.
    """
    if theirs.get("_target_") != ours.get("_target_"):
        return ["_target_"]
    known = inspect.signature(pkgutil.resolve_name(ours["_target_"])).parameters
    defaults = {name: known[name].default for name in {*theirs, *ours} if name in known}
    full_theirs, full_ours = ({**defaults, **settings} for settings in (theirs, ours))
    return sorted(name for name in full_ours if differ(full_theirs[name], full_ours[name]))


def differ(theirs: Any, ours: Any) -> bool:
    """Whether two settings differ; checkpoints do not distinguish tuples and lists."""
    if isinstance(theirs, dict) and isinstance(ours, dict) and "_target_" in ours:
        return bool(differing_settings(theirs, ours))
    theirs, ours = (list(value) if isinstance(value, tuple) else value for value in (theirs, ours))
    return theirs != ours


def build(node: dict[str, Any], **arguments: Any) -> Any:
    """An instance of the class that a Hydra node names, from plain values.

    Raises:
        InputError: the node names no class, or the class rejects its arguments.
    """
    settings = {name: value for name, value in node.items() if name != "_target_"}
    try:
        return pkgutil.resolve_name(node["_target_"])(**settings, **arguments)
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, ImportError, AttributeError) as error:
        raise InputError(f"invalid settings of {node.get('_target_')}: {one_line(error)}") from error


def known_classes(role: str) -> set[str]:
    """Allow-list of the classes for this role in a checkpoint."""
    if role in ("net", "teacher"):
        package = asc.nets if role == "net" else asc.teachers
        return {f"{package.__name__}.{name}" for name in package.__all__}
    if role == "frontend":
        return {f"{Spectrogram.__module__}.{Spectrogram.__name__}"}
    module: Any = torch.optim if role == "optimizer" else torch.optim.lr_scheduler
    return {f"{module.__name__}.{name}" for name in module.__all__ if name[0].isupper()}


def check_classes(
    hyperparameters: dict[str, Any], trusted: Sequence[str], roles: Sequence[str] = REQUIRED + ("scheduler",)
) -> None:
    """Reject classes outside the allow-list of their role, unless the caller trusts their module.

    Raises:
        InputError: names the class.
    """
    for role in roles:
        node = hyperparameters.get(role)
        if node is None and role not in REQUIRED:
            continue
        target = node.get("_target_") if isinstance(node, dict) else None
        is_trusted = isinstance(target, str) and target.startswith(tuple(f"{module}." for module in trusted))
        if not is_trusted and (not isinstance(target, str) or target not in known_classes(role)):
            raise InputError(
                f"invalid {role}={str(target)[:80]}: expected a class of asc or torch.optim; "
                'if you trust the source of the checkpoint, give its module as trusted=["MODULE"]'
            )


def check_finite(state: dict[str, Any]) -> None:
    """Reject weights that are not finite: every probability would be NaN.

    Raises:
        InputError: names the first such tensor.
    """
    for name, value in state.items():
        if torch.is_tensor(value) and value.is_floating_point() and not value.isfinite().all():
            raise InputError(f"invalid weights {name}: expected finite numbers; train again with a lower learning rate")
