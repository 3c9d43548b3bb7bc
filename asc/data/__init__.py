"""From recordings to batches: audio files, lists, splits, datasets, the feature cache and the DataModules."""

from asc.data.datamodule import SceneData
from asc.data.folder import FolderScenes
from asc.data.remembered import scene_data

__all__ = ["FolderScenes", "SceneData", "scene_data"]
