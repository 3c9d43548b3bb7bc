"""Held-out clips and cross-validation folds, by location."""

from collections import Counter
from pathlib import Path

import pytest

from asc import InputError
from asc.data import SceneData
from asc.data.lists import Clip, read_lists
from asc.data.splits import cross_validation, hold_out

LABELS = ["indoor", "outdoor", "transportation"]


def clips(*locations: tuple[str, str, int]) -> list[Clip]:
    """So many clips of a label at each location."""
    return [Clip(Path(f"{name}-{n}.wav"), label, name) for name, label, count in locations for n in range(count)]


def locations(part: list[Clip]) -> set[str]:
    return {clip.location for clip in part}


MANY = clips(*((f"{label}-{i}", label, 5 + i) for label in LABELS for i in range(20)))  # locations of 5 to 24 clips


# Validation


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.5])
@pytest.mark.parametrize("seed", range(5))
def test_validation_holds_whole_locations_of_each_class(fraction, seed):
    train, validation = hold_out(MANY, fraction, seed)
    assert not locations(train) & locations(validation)
    assert sorted(train + validation, key=str) == sorted(MANY, key=str)
    held, total = Counter(clip.label for clip in validation), Counter(clip.label for clip in MANY)
    for label in LABELS:
        assert abs(held[label] - fraction * total[label]) <= 24 / 2  # half of the largest location


@pytest.mark.parametrize(("fraction", "held"), [(0.0, 0), (0.1, 0), (0.3, 10), (0.6, 20)])
def test_validation_takes_the_nearest_number_of_locations(fraction, held):
    # of 30 clips 0, 3, 9 and 18 are asked for; locations have 10
    three = clips(("a", "indoor", 10), ("b", "indoor", 10), ("c", "indoor", 10))
    assert len(hold_out(three, fraction, 0)[1]) == held


def test_every_location_may_be_held_out():
    assert set.union(*(locations(hold_out(MANY, 0.3, seed)[1]) for seed in range(40))) == locations(MANY)


@pytest.mark.parametrize("seed", range(5))
def test_each_class_keeps_a_location_to_learn_from(seed):
    few = clips(("a", "indoor", 9), ("b", "outdoor", 3), ("c", "outdoor", 3), ("d", "transportation", 1))
    train, validation = hold_out(few, 0.99, seed)
    assert {clip.label for clip in train} == set(LABELS)
    assert {clip.label for clip in validation} == {"outdoor"}


def test_real_locations_are_held_out_whole(shared):
    train, validation = hold_out(read_lists(shared / "scenes3", ["evaluation_setup/fold1_train.csv"])[0], 0.3, 0)
    assert {clip.label for clip in train} == {clip.label for clip in validation} == set(LABELS)
    assert not locations(train) & locations(validation)
    assert 0.2 < len(validation) / len(train + validation) < 0.4


# Cross-validation


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("folds", [2, 5])
def test_each_clip_is_tested_once_with_its_location_and_labels_are_balanced(folds, seed):
    parts = cross_validation(MANY, folds, seed)
    assert sorted(clip.path for part in parts for clip in part) == sorted(clip.path for clip in MANY)
    assert sum(len(locations(part)) for part in parts) == len(locations(MANY))
    for label in LABELS:  # the fullest fold was the emptiest before its last location of at most 24 clips
        counts = [sum(clip.label == label for clip in part) for part in parts]
        assert max(counts) - min(counts) <= 24


@pytest.mark.parametrize("split", [hold_out, cross_validation])
def test_the_seed_alone_shuffles(split):
    amount = 0.3 if split is hold_out else 5
    assert split(MANY, amount, 0) == split(MANY, amount, 0)
    assert split(MANY, amount, 0) != split(MANY, amount, 1)


def test_more_folds_than_locations_are_rejected():
    few = clips(("a1", "a", 2), ("a2", "a", 2), ("a3", "a", 2), ("b1", "b", 9), ("b2", "b", 1))
    with pytest.raises(InputError, match="invalid data.cv=3: .* b has"):
        cross_validation(few, 3, 0)


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
