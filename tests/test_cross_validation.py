"""Cross-validation by location, and the comparison of two settings on its folds."""

from collections import Counter
from pathlib import Path

import pytest

from asc import InputError
from asc.data import SceneData
from asc.data.lists import Clip
from asc.data.splits import cross_validation


def clips(*locations: tuple[str, int]) -> list[Clip]:
    """So many clips of each location, whose name's first letter is its label."""
    return [Clip(Path(f"{name}-{n}.wav"), name[0], name) for name, count in locations for n in range(count)]


MANY = clips(*((f"{label}{n}", 1 + n % 4) for label in "abc" for n in range(11)))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("folds", [2, 5])
def test_each_clip_is_tested_once_and_no_location_is_cut(folds, seed):
    parts = cross_validation(MANY, folds, seed)
    assert sorted(clip.path for part in parts for clip in part) == sorted(clip.path for clip in MANY)
    places = [{clip.location for clip in part} for part in parts]
    assert sum(map(len, places)) == len(set.union(*places))


@pytest.mark.parametrize("seed", range(5))
def test_labels_are_balanced_to_within_a_location(seed):
    """The fullest fold of a label was the emptiest before its last location, of 4 clips at most, came in."""
    for label in "abc":
        counts = [sum(clip.label == label for clip in part) for part in cross_validation(MANY, 5, seed)]
        assert max(counts) - min(counts) <= 4


def test_the_seed_alone_shuffles():
    assert cross_validation(MANY, 5, 0) == cross_validation(MANY, 5, 0)
    assert cross_validation(MANY, 5, 0) != cross_validation(MANY, 5, 1)


def test_more_folds_than_locations_are_rejected():
    with pytest.raises(InputError, match="invalid data.cv=3: expected at most as many folds as b has locations"):
        cross_validation(clips(("a1", 2), ("a2", 2), ("a3", 2), ("b1", 9), ("b2", 1)), 3, 0)


def test_the_folds_of_a_dataset_are_all_its_clips(tiny):
    tested: Counter[Path] = Counter()
    for fold in (1, 2, 3):
        data = SceneData(str(tiny), cv=3, fold=fold, cache=False)
        data.setup()
        assert len(data.clips["train"]) + len(data.clips["test"]) == 36
        tested += Counter(clip.path for clip in data.clips["test"])
    assert len(tested) == 36
    assert set(tested.values()) == {1}
    for settings in ({"cv": 3, "fold": 4}, {"cv": 3, "fold": 0}, {"cv": 1}):
        with pytest.raises(InputError, match=r"invalid data\.(cv|fold)"):
            SceneData(str(tiny), **settings)
