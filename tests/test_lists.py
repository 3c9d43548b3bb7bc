from dataclasses import replace
from pathlib import Path

import pytest

from asc.data.lists import Clip, read_clips, read_meta, read_table
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


@pytest.fixture
def root(tmp_path) -> Path:
    (tmp_path / "meta.csv").write_text(META)
    return tmp_path


@pytest.fixture
def table(tmp_path) -> Path:
    return tmp_path / "list.csv"


def rejection(path: Path, columns=("filename", "scene_label")) -> str:
    with pytest.raises(InputError) as rejected:
        read_table(path, columns)
    message = str(rejected.value)
    assert str(path) in message
    assert "\n" not in message
    return message


# Lists


def test_crlf_and_a_byte_order_mark_read_the_same(table):
    table.write_bytes(LABELLED.encode())
    expected = read_table(table, ["filename", "scene_label"])
    assert expected[1] == {"filename": "audio/park-oslo-2-3-a.wav", "scene_label": "outdoor"}
    table.write_bytes(LABELLED.replace("\n", "\r\n").encode("utf-8-sig"))
    assert read_table(table, ["filename", "scene_label"]) == expected


@pytest.mark.parametrize("separator", [",", ";"])
def test_commas_are_rejected_naming_tabs(table, separator):
    table.write_text(LABELLED.replace("\t", separator))
    assert "tabs" in rejection(table)


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_an_empty_list_is_rejected(table, text):
    table.write_text(text)
    assert "empty" in rejection(table)


def test_a_header_alone_is_rejected(table):
    table.write_text("filename\tscene_label\n")
    assert "no rows" in rejection(table)


def test_a_missing_column_is_named(table):
    table.write_text(BARE)
    assert "scene_label" in rejection(table)


@pytest.mark.parametrize("row", ["audio/tram.wav", "audio/tram.wav\t", "\tindoor"])
def test_a_missing_field_is_rejected_with_its_line(table, row):
    table.write_text(LABELLED + row + "\n")
    assert "row 3" in rejection(table)


def test_a_missing_list_is_rejected(table):
    assert "does not exist" in rejection(table)


@pytest.mark.parametrize("data", [bytes(range(256)), b"\x89PNG\r\n\x1a\n" + bytes(100), LABELLED.encode("utf-16")])
def test_a_binary_file_is_rejected(table, data):
    table.write_bytes(data)
    assert "not a tab-separated" in rejection(table) or "lacks the column" in rejection(table)


def test_a_folder_in_place_of_a_list_is_rejected(tmp_path):
    rejection(tmp_path)


# Clips


@pytest.mark.parametrize("text", [LABELLED, BARE])
def test_what_a_list_leaves_out_comes_from_meta(root, text):
    (root / "fold1.csv").write_text(text)
    assert read_clips(root, "fold1.csv", read_meta(root)) == [
        Clip(root / "audio/bus-oslo-1-2-a.wav", "transportation", "oslo-1"),
        Clip(root / "audio/park-oslo-2-3-a.wav", "outdoor", "oslo-2"),
    ]


def test_a_label_that_meta_contradicts_is_rejected(root):
    """It would become a class of its own, or teach the wrong one."""
    (root / "fold1.csv").write_text(LABELLED.replace("outdoor", "outdoors"))
    with pytest.raises(InputError, match="fold1.csv: labels other than in meta.csv: 1 .*park-oslo-2-3-a.wav"):
        read_clips(root, "fold1.csv", read_meta(root))


def test_a_file_listed_twice_is_rejected(root):
    (root / "fold1.csv").write_text(BARE + "audio/park-oslo-2-3-a.wav\n")
    with pytest.raises(InputError, match="fold1.csv: files listed more than once: 1 .*park-oslo-2-3-a.wav"):
        read_clips(root, "fold1.csv", read_meta(root))


def test_a_file_twice_in_meta_is_rejected(root):
    (root / "meta.csv").write_text(META + META.splitlines()[1] + "\n")
    with pytest.raises(InputError, match="meta.csv: files listed more than once: 1 .*bus-oslo-1-1-a.wav"):
        read_meta(root)


def test_a_file_that_meta_does_not_know_is_rejected(root):
    (root / "fold1.csv").write_text(BARE + "audio/tram-rome-9-9-a.wav\n")
    with pytest.raises(InputError, match="fold1.csv: files .*meta.csv.*: 1 .*tram-rome-9-9-a.wav"):
        read_clips(root, "fold1.csv", read_meta(root))


@pytest.mark.parametrize("name", ["../outside.wav", "audio/../audio/bus-oslo-1-1-a.wav", "/tmp/bus.wav"])
def test_a_file_name_that_leads_out_or_round_is_rejected(root, name):
    (root / "meta.csv").write_text(f"{META}{name}\tindoor\trome-1\ta\n")
    with pytest.raises(InputError, match=r"meta.csv: file names that are absolute or contain '..': 1 "):
        read_meta(root)
    (root / "fold1.csv").write_text(f"filename\n{name}\n")
    with pytest.raises(InputError, match=r"fold1.csv: file names that are absolute or contain '..': 1 "):
        read_clips(root, "fold1.csv", {name: {"scene_label": "indoor", "identifier": "rome-1"}})


def test_the_first_clip_and_one_from_within_have_different_names():
    clip = Clip(Path("/data/rain/walk.wav"), "rain", "walk")
    assert clip.name(Path("/data")) == "rain/walk.wav"
    assert replace(clip, start=12.5).name(Path("/data")) == "rain/walk.wav#t=12.5"


def test_a_root_that_is_no_folder_is_rejected(tmp_path):
    with pytest.raises(InputError, match="data.root=.*nowhere"):
        read_meta(tmp_path / "nowhere")


# Real lists


@pytest.mark.parametrize(
    ("name", "fold", "train", "test"),
    [("esc10", fold, 320, 80) for fold in range(1, 6)] + [("scenes3", 1, 128, 56), ("tau24", 1, 5, 3)],
)
def test_real_lists_are_sound_splits(shared, name, fold, train, test):
    root = shared / name
    meta = read_meta(root)
    lists = [read_clips(root, f"evaluation_setup/fold{fold}_{part}.csv", meta) for part in ("train", "evaluate")]
    assert not list(split_faults(*lists, labels=sorted({row["scene_label"] for row in meta.values()}), where=root))
    assert [len(part) for part in lists] == [train, test]  # shared/data/README.md
    assert all(clip.path.is_file() for part in lists for clip in part)
    # the list without labels names the same clips
    assert read_clips(root, f"evaluation_setup/fold{fold}_test.csv", meta) == lists[1]
