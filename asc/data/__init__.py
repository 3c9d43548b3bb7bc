"""From recordings to batches: audio files, lists, splits, datasets, the feature cache and the DataModule."""

from asc.data.datamodule import SceneData

__all__ = ["SceneData"]
