"""Lists in the TAU layout: tables, clips, and the faults of lists and of splits."""

from dataclasses import replace
from pathlib import Path

import pytest

from asc.data.lists import Clip, meta_rows, raise_first, read_lists, read_table
from asc.data.splits import split_faults
from asc.errors import InputError

LABELS = ["indoor", "outdoor", "transportation"]
META = """filename	scene_label	identifier	source_label
audio/bus-oslo-1-1-a.wav	transportation	oslo-1	a
audio/bus-oslo-1-2-a.wav	transportation	oslo-1	a
audio/park-oslo-2-3-a.wav	outdoor	oslo-2	a
audio/park-bern-3-4-a.wav	outdoor	bern-3	a
"""
LABELLED = "filename\tscene_label\naudio/bus-oslo-1-2-a.wav\ttransportation\naudio/park-oslo-2-3-a.wav\toutdoor\n"
BARE = "filename\naudio/bus-oslo-1-2-a.wav\naudio/park-oslo-2-3-a.wav\n"


def read(root: Path, text: str, meta: str = META) -> list[Clip]:
    """The clips of a list with this text."""
    (root / "meta.csv").write_text(meta)
    (root / "fold1.csv").write_text(text)
    return read_lists(root, ["fold1.csv"])[0]


# Tables


QUOTED = LABELLED.replace("audio/bus-oslo-1-2-a.wav", '"audio/bus-oslo-1-2-a.wav"')
EXCEL = LABELLED.replace("\t", ";").replace("\n", ";\n") + ";;\n"


@pytest.mark.parametrize(
    "content",
    [
        LABELLED.encode(),
        LABELLED.replace("\n", "\r\n").encode("utf-8-sig"),
        LABELLED.replace("\n", "\r").encode("utf-16"),
        LABELLED.replace("\t", ",").encode(),
        LABELLED.replace("\t", ", ").encode(),
        LABELLED.replace("\t", " , ").replace("\n", " \n").encode(),
        EXCEL.encode("utf-8-sig"),
        QUOTED.encode(),
        QUOTED.replace("\t", ";").encode("utf-16"),
        LABELLED.replace("audio/", "audio\\").encode(),
        LABELLED.replace("audio/", "./audio/").encode(),
    ],
    ids=range(11),
)
def test_tables_of_any_program_read_the_same(tmp_path, content):
    table = tmp_path / "list.csv"
    table.write_bytes(content)
    names = ("audio/bus-oslo-1-2-a.wav", "transportation"), ("audio/park-oslo-2-3-a.wav", "outdoor")
    rows = read_table(table, ["filename", "scene_label"])
    assert [(row["filename"], row["scene_label"]) for row in rows] == list(names)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_umlauts_separators_and_quotes_survive(tmp_path, encoding):
    table = tmp_path / "list.csv"
    table.write_text('filename,scene_label\n"Straße, 5"" pipe.wav",Straße\n', encoding=encoding)
    assert read_table(table, ["scene_label"]) == [{"filename": 'Straße, 5" pipe.wav', "scene_label": "Straße"}]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (LABELLED.replace("\t", "|"), "tabs, commas or semicolons"),
        ("", "an empty file"),
        ("\n\n", "an empty file"),
        ("filename\tscene_label\n", "no rows"),
        (BARE, "scene_label"),
        (LABELLED + "audio/tram.wav\n", "row 3"),
        (LABELLED + "audio/tram.wav\t\n", "row 3"),
        (LABELLED + "\tindoor\n", "row 3"),
        ("filename,scene_label\naudio/a,b.wav,indoor\n", "row 1"),
        ('filename\tscene_label\n"a.wav\tindoor\n', "not a table"),
        (bytes(range(256)), "not a table"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "header"),
        (LABELLED.encode("utf-16-le"), "header"),
        (None, "does not exist"),
    ],
)
def test_an_invalid_table_is_named_with_its_fault(tmp_path, content, words):
    table = tmp_path / "list.csv"
    if content is not None:
        table.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as rejected:
        read_table(table, ["filename", "scene_label"])
    assert str(table) in str(rejected.value)
    assert words in str(rejected.value)
    assert "\n" not in str(rejected.value)


# Clips


@pytest.mark.parametrize("text", [LABELLED, BARE])
def test_what_a_list_leaves_out_comes_from_meta(tmp_path, text):
    assert read(tmp_path, text) == [
        Clip(tmp_path / "audio/bus-oslo-1-2-a.wav", "transportation", "oslo-1"),
        Clip(tmp_path / "audio/park-oslo-2-3-a.wav", "outdoor", "oslo-2"),
    ]


def test_a_space_at_the_end_makes_no_location_of_its_own(tmp_path):
    """On which a split by location would divide a place."""
    found = read(tmp_path, BARE, META.replace("oslo-1\t", "oslo-1 \t"))
    assert [clip.location for clip in found] == ["oslo-1", "oslo-2"]


@pytest.mark.parametrize(
    ("text", "meta", "words"),
    [
        (LABELLED.replace("outdoor", "outdoors"), META, "fold1.csv: labels other than in meta.csv: 1 .*park-oslo-2-3"),
        (BARE + "audio/park-oslo-2-3-a.wav\n", META, "fold1.csv: files listed more than once: 1 .*park-oslo-2-3"),
        (BARE + "audio/tram-rome-9-9-a.wav\n", META, "fold1.csv: files .*meta.csv.*: 1 .*tram-rome-9-9-a.wav"),
        (BARE, META + META.splitlines()[1] + "\n", "meta.csv: files listed more than once: 1 .*bus-oslo-1-1"),
        (BARE, META + "../outside.wav\tindoor\trome-1\ta\n", "meta.csv: file names that are absolute"),
        (BARE, META + "audio/../audio/a.wav\tindoor\trome-1\ta\n", "meta.csv: file names that are absolute"),
        (BARE + "/tmp/bus.wav\n", META, "fold1.csv: file names that are absolute"),
        (BARE + "C:\\data\\bus.wav\n", META, "fold1.csv: file names that are absolute"),
        (BARE + "audio\\..\\..\\bus.wav\n", META, "fold1.csv: file names that are absolute"),
    ],
)
def test_a_faulty_list_is_rejected(tmp_path, text, meta, words):
    with pytest.raises(InputError, match=words):
        read(tmp_path, text, meta)


def test_the_first_clip_and_one_from_within_have_different_names():
    clip = Clip(Path("/data/rain/walk.wav"), "rain", "walk")
    assert clip.name(Path("/data")) == "rain/walk.wav"
    assert replace(clip, start=12.5).name(Path("/data")) == "rain/walk.wav#t=12.5"


def test_a_root_that_is_no_folder_is_rejected(tmp_path):
    with pytest.raises(InputError, match="data.root=.*nowhere"):
        read_lists(tmp_path / "nowhere", [])


# Train and test


def clips(locations: dict[str, tuple[str, int]]) -> list[Clip]:
    """So many clips of a label at each location."""
    return [
        Clip(Path(f"audio/{location}-{i}.wav"), label, location)
        for location, (label, count) in locations.items()
        for i in range(count)
    ]


TRAIN = clips({"oslo-1": ("indoor", 2), "oslo-2": ("outdoor", 2), "oslo-3": ("transportation", 2)})
TEST = clips({"bern-1": ("indoor", 1), "bern-2": ("outdoor", 1)})
STRANGE = clips({f"rome-{i}": ("beach", 1) for i in range(40)})
AGAIN = [replace(clip, path=Path(f"audio/again-{clip.path.name}")) for clip in TRAIN[1:4]]  # oslo-1 and oslo-2


def faults(train: list[Clip], test: list[Clip], labels: list[str]) -> list[str]:
    return list(split_faults(train, test, labels, Path("evaluation_setup")))


def test_a_sound_split_has_no_fault():
    assert faults(TRAIN, TEST, LABELS) == []


@pytest.mark.parametrize(
    ("train", "test", "words"),
    [
        (TRAIN + STRANGE[:2], TEST, "2 .*rome-1-0.wav beach.*expected indoor, outdoor, transportation"),
        (TRAIN, TEST + STRANGE, "label: 40 "),
        (TRAIN, [*TEST, replace(TRAIN[0], location="bern-9")], "files in both train and test: 1 .*oslo-1-0.wav"),
        (TRAIN, TEST + AGAIN, r"locations in both train and test: 2 .*oslo-1, oslo-2\)"),
    ],
)
def test_a_faulty_split_is_rejected(train, test, words):
    with pytest.raises(InputError, match=words) as rejected:
        raise_first(iter(faults(train, test, LABELS)))
    assert len(str(rejected.value)) < 300


@pytest.mark.parametrize(("one", "other"), [("indoor", "Indoor"), ("indoor", "indoor "), ("caf\u00e9", "cafe\u0301")])
def test_a_label_that_is_spelt_in_two_ways_is_rejected(one, other):
    assert f"2 ({one}, {other})" in faults(TRAIN, TEST, ["outdoor", "transportation", one, other])[0]


@pytest.mark.parametrize(
    ("name", "fold", "train", "test"),
    [("esc10", fold, 320, 80) for fold in range(1, 6)] + [("scenes3", 1, 128, 56), ("tau24", 1, 5, 3)],
)
def test_real_lists_are_sound_splits(shared, name, fold, train, test):
    root = shared / name
    names = [f"evaluation_setup/fold{fold}_{part}.csv" for part in ("train", "evaluate", "test")]
    *lists, unlabelled = read_lists(root, names)
    assert faults(*lists, labels=sorted({row["scene_label"] for row in meta_rows(root)})) == []
    assert [len(part) for part in lists] == [train, test]  # shared/data/README.md
    assert all(clip.path.is_file() for part in lists for clip in part)
    assert unlabelled == lists[1]
