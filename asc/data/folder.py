"""FolderScenes: one folder per class, with recordings cut into clips; the DataModule of a checkpoint."""

import inspect
import sys
from itertools import chain
from typing import Annotated, Any

from pydantic import Field

from asc.data.datamodule import SceneData
from asc.data.lists import Clip
from asc.data.recordings import (
    Folder,
    check_classes,
    clip_length,
    cut_all,
    divide,
    leaks,
    notes,
    read_folder,
    same_sources,
    split_folders,
)
from asc.errors import InputError
from asc.settings import Seed, checked

SPLIT = ("seed", "test_fraction", "split_seed")  # cannot be replaced, so that no training clip becomes a test clip
COMMON = inspect.signature(SceneData).parameters.keys()  # settings of every subclass too


class FolderScenes(SceneData):
    """Train, validation and test clips of DIR/<label>/..., or of DIR/train/<label>/... and DIR/test/<label>/...

    All clips of a location stay in one split: a subfolder of a class, or a recording directly in the class's folder.

    Args:
        root: the folder.
        test_fraction: fraction of each class's clips held out for the test, unless there are train/ and test/.
        split_seed: seed for choosing these clips, independent of `seed`.
        settings: see SceneData. `clip_seconds` is the length of the clips cut from recordings; None: 10 s, or the
            median length of the recordings if that is less.
    """

    @checked("data")
    def __init__(
        self,
        root: str,
        test_fraction: Annotated[float, Field(ge=0.01, le=0.9)] = 0.25,
        split_seed: Seed = 0,
        **settings: Any,
    ):
        super().__init__(root, **settings)
        self.save_hyperparameters("test_fraction", "split_seed", logger=False)
        if not self.cv and self.fold != 1:
            raise InputError(f"invalid data.fold={self.fold}: set data.cv too, the number of folds")
        self.test_fraction, self.split_seed = test_fraction, split_seed

    def identity(self, clip: Clip) -> tuple:
        return clip.location, clip.path.name, round(clip.start, 2)  # the length of clips may be rounded to samples

    def draws_test(self) -> bool:
        return super().draws_test() or self.root in split_folders(self.root)

    def use(self, splits: dict[str, list[Clip]]) -> None:
        super().use(splits)
        labelled = {split: clips for split, clips in self.clips.items() if split != "unlabelled"}
        for sentence in [*leaks(labelled, self.root), *same_sources(labelled, self.root)]:
            print(f"warning: {sentence}", file=sys.stderr)

    def read_splits(self) -> dict[str, list[Clip]]:
        found = read_folder(self.root)
        check_classes(found, self.root)
        clips = self.cut(found)
        return clips if self.cv else divide(clips, self.test_fraction, self.split_seed, self.root)

    def read_only(self, split: str) -> list[Clip]:
        found = read_folder(self.root)
        if not {clip.label for clip in chain.from_iterable(found.recordings.values())} & set(self.labels):
            check_classes(found, self.root)  # for its remedies
        clips = self.cut(found)
        if split == "all":
            return list(chain.from_iterable(clips.values()))
        return divide(clips, self.test_fraction, self.split_seed, self.root).get(split, [])

    def cut(self, found: Folder) -> dict[str, list[Clip]]:
        """The clips of a folder's readable recordings."""
        for sentence in notes(found, self.root):
            print(sentence, file=sys.stderr)
        recordings = self.readable(found.recordings)
        self.clip_seconds = self.clip_seconds or clip_length(self.durations.values())
        return cut_all(recordings, self.durations, self.clip_seconds)

    def seconds_of(self, clip: Clip) -> float:
        assert self.clip_seconds is not None  # set by `cut`
        return min(self.clip_seconds, self.durations[clip.path] - clip.start)


def scene_data(saved: dict[str, Any], given: dict[str, Any] | None = None, kind: type[SceneData] | None = None) -> Any:
    """The DataModule with a checkpoint's `datamodule_hyper_parameters`.

    The class follows from the settings: a checkpoint cannot name it, so an untrusted one cannot choose the code to run.

    Args:
        saved: settings from the checkpoint, except where files are written.
        given: settings that replace them, except those in SPLIT.
        kind: the class, if the user names one.

    Raises:
        InputError: the settings belong to a class outside this package, and `kind` is None.
    """
    saved = {name: value for name, value in saved.items() if name != "cache_dir"}
    own = saved.keys() - COMMON
    saved_kind = FolderScenes if own else SceneData
    if kind not in (None, saved_kind):  # another class keeps only the common settings
        saved = {name: value for name, value in saved.items() if name in COMMON}
    elif unknown := own - inspect.signature(FolderScenes).parameters.keys():
        raise InputError(
            f"the checkpoint's data has settings of another class ({', '.join(sorted(unknown))}): name it with data=..."
        )
    split = {name: saved[name] for name in SPLIT if name in saved}
    return (kind or saved_kind)(**{**saved, **(given or {}), **split})
