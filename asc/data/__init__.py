"""From recordings to batches: audio files, lists, splits, datasets, the feature cache and the DataModules."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asc.data.datamodule import SceneData
    from asc.data.folder import FolderScenes, scene_data

__all__ = ["FolderScenes", "SceneData", "scene_data"]
MODULES = {"FolderScenes": "folder", "SceneData": "datamodule", "scene_data": "folder"}


def __getattr__(name: str) -> Any:
    """Import a DataModule, and torch with it, when first used: asc.check reads lists and folders without torch."""
    if name in MODULES:
        return getattr(import_module(f"asc.data.{MODULES[name]}"), name)
    raise AttributeError(f"module 'asc.data' has no attribute {name!r}")
