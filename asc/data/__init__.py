"""Recordings to batches: sound files, lists and splits, datasets, the feature cache, and the DataModule of them all."""

from asc.data.datamodule import SceneData

__all__ = ["SceneData"]
