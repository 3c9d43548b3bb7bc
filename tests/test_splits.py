from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from asc.data.lists import Clip, raise_first, read_clips, read_meta
from asc.data.splits import hold_out, split_faults
from asc.errors import InputError

LABELS = ["indoor", "outdoor", "transportation"]


def clips(locations: dict[str, tuple[str, int]]) -> list[Clip]:
    """So many clips of a label at each location."""
    return [
        Clip(Path(f"audio/{location}-{i}.wav"), label, location)
        for location, (label, count) in locations.items()
        for i in range(count)
    ]


TRAIN = clips({"oslo-1": ("indoor", 2), "oslo-2": ("outdoor", 2), "oslo-3": ("transportation", 2)})
TEST = clips({"bern-1": ("indoor", 1), "bern-2": ("outdoor", 1)})
HERE = Path("evaluation_setup")


def test_a_sound_split_passes():
    raise_first(split_faults(TRAIN, TEST, LABELS, HERE))


@pytest.mark.parametrize("which", ["train", "test"])
def test_an_unknown_label_is_rejected(which):
    strange = clips({"rome-1": ("beach", 2)})
    train, test = (TRAIN + strange, TEST) if which == "train" else (TRAIN, TEST + strange)
    with pytest.raises(InputError, match="2 .*rome-1-0.wav beach.*expected indoor, outdoor, transportation"):
        raise_first(split_faults(train, test, LABELS, HERE))


@pytest.mark.parametrize(("one", "other"), [("indoor", "Indoor"), ("indoor", "indoor "), ("caf\u00e9", "cafe\u0301")])
def test_a_label_that_is_spelt_in_two_ways_is_rejected(one, other):
    with pytest.raises(InputError, match=rf"labels that differ only in spelling: 2 \({one}, {other}\)"):
        raise_first(split_faults(TRAIN, TEST, ["outdoor", "transportation", one, other], HERE))


def test_a_file_in_both_lists_is_rejected():
    again = replace(TRAIN[0], location="bern-9")
    with pytest.raises(InputError, match="files in both train and test: 1 .*oslo-1-0.wav"):
        raise_first(split_faults(TRAIN, [*TEST, again], LABELS, HERE))


def test_locations_in_both_lists_are_counted_and_named():
    again = [replace(clip, path=Path(f"audio/again-{clip.path.name}")) for clip in TRAIN[1:4]]  # oslo-1 and oslo-2
    with pytest.raises(InputError, match=r"locations in both train and test: 2 .*oslo-1, oslo-2\)"):
        raise_first(split_faults(TRAIN, TEST + again, LABELS, HERE))


def test_of_many_names_the_first_are_given():
    many = clips({f"rome-{i}": ("beach", 1) for i in range(40)})
    with pytest.raises(InputError, match="label: 40 ") as refused:
        raise_first(split_faults(TRAIN + many, TEST, LABELS, HERE))
    assert len(str(refused.value)) < 300


# Validation


@pytest.fixture
def many() -> list[Clip]:
    """20 locations of each class, of 5 to 24 clips."""
    return clips({f"{label}-{i}": (label, 5 + i) for label in LABELS for i in range(20)})


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.5])
@pytest.mark.parametrize("seed", range(5))
def test_validation_holds_whole_locations_of_each_class(many, fraction, seed):
    train, validation = hold_out(many, fraction, seed)
    assert not {clip.location for clip in train} & {clip.location for clip in validation}
    assert sorted(train + validation, key=str) == sorted(many, key=str)
    held, total = Counter(clip.label for clip in validation), Counter(clip.label for clip in many)
    for label in LABELS:
        assert abs(held[label] - fraction * total[label]) <= 24 / 2  # half of the largest location


@pytest.mark.parametrize(("fraction", "held"), [(0.1, 0), (0.3, 10), (0.6, 20)])
def test_validation_takes_the_nearest_number_of_locations(fraction, held):
    # of 30 clips 3, 9 and 18 are asked for; locations have 10
    three = clips({"a": ("indoor", 10), "b": ("indoor", 10), "c": ("indoor", 10)})
    assert len(hold_out(three, fraction, 0)[1]) == held


def test_the_seed_alone_decides(many):
    assert hold_out(many, 0.3, 1) == hold_out(many, 0.3, 1)
    assert hold_out(many, 0.3, 1) != hold_out(many, 0.3, 2)


def test_seeds_reach_every_location(many):
    held = {clip.location for seed in range(40) for clip in hold_out(many, 0.3, seed)[1]}
    assert held == {clip.location for clip in many}


@pytest.mark.parametrize("seed", range(5))
def test_each_class_keeps_a_location_to_learn_from(seed):
    few = clips({"a": ("indoor", 9), "b": ("outdoor", 3), "c": ("outdoor", 3), "d": ("transportation", 1)})
    train, validation = hold_out(few, 0.99, seed)
    assert {clip.label for clip in train} == set(LABELS)
    assert {clip.label for clip in validation} == {"outdoor"}


def test_a_fraction_of_zero_holds_nothing_out(many):
    assert hold_out(many, 0.0, 0) == (many, [])


# Real lists


def test_real_locations_are_held_out_whole(shared):
    root = shared / "scenes3"
    train, validation = hold_out(read_clips(root, "evaluation_setup/fold1_train.csv", read_meta(root)), 0.3, 0)
    assert {clip.label for clip in train} == {clip.label for clip in validation} == set(LABELS)
    assert not {clip.location for clip in train} & {clip.location for clip in validation}
    assert 0.2 < len(validation) / len(train + validation) < 0.4
