"""Evaluation of a classifier on a dataset."""

import json
from pathlib import Path
from statistics import mean

import numpy as np
import pandas as pd
import pytest
import torch
from classifiers import classifier, save
from command import results, rows
from sklearn.metrics import balanced_accuracy_score, log_loss
from tiny import write_list
from torchmetrics.functional.classification import multiclass_calibration_error

from asc.audio import read_wave
from asc.data.lists import Clip
from asc.evaluate.__main__ import main
from asc.evaluate.evaluation import BINS, LocationBootstrap, clip_table, evaluation_figures, reliability
from asc.evaluate.output import evaluation_tables
from asc.results import read_predictions, write_predictions

LABELS = ["indoor", "outdoor", "transportation"]
ROOT = Path("/data")


def clip(name: str, label: str = "indoor", location: str = "oslo-1") -> Clip:
    return Clip(ROOT / "audio" / name, label, location)


def table(targets, probabilities, names: list[str] | None = None, labels: list[str] = LABELS) -> pd.DataFrame:
    """A table of clips with these class indices and probabilities, each at a location of its own."""
    names = names or [f"{number}.wav" for number in range(len(targets))]
    clips = [clip(name, labels[target], str(k)) for k, (name, target) in enumerate(zip(names, targets, strict=True))]
    return clip_table(clips, ROOT, labels, np.array(probabilities))


def random_predictions(clips: int = 200) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(3, size=clips), rng.dirichlet(np.ones(3), clips)


def test_metrics_equal_those_of_scikit_learn_and_torchmetrics_and_hand_arithmetic():
    targets, probabilities = random_predictions()
    test = evaluation_figures(table(targets, probabilities), LABELS, 0, 0)["test"]
    assert test["macro_accuracy"] == pytest.approx(balanced_accuracy_score(targets, probabilities.argmax(1)))
    assert test["log_loss"] == pytest.approx(log_loss(targets, probabilities))
    preds, target = torch.from_numpy(probabilities), torch.from_numpy(targets)
    expected = multiclass_calibration_error(preds, target, 3, n_bins=BINS, norm="l1").item()
    assert reliability(table(targets, probabilities))["expected_calibration_error"] == pytest.approx(expected, abs=1e-6)

    sure = [[0.9, 0.1, 0], [0.9, 0, 0.1], [0.5, 0.5, 0], [0, 0, 1]]
    figures = reliability(table([0, 1, 0, 2], sure))
    assert [(part["clips"], part["accuracy"]) for part in figures["bins"]] == [(1, 1), (2, 0.5), (1, 1)]
    assert figures["expected_calibration_error"] == pytest.approx((1 * 0.5 + 2 * 0.4 + 1 * 0) / 4)


def bootstrap_of(values: np.ndarray, locations: list[str], seed: int = 0) -> tuple[LocationBootstrap, pd.Series]:
    """The bootstrap over locations, and the resampled means of values."""
    bootstrap = LocationBootstrap(pd.DataFrame({"value": values, "location": locations}), seed)
    return bootstrap, bootstrap.means("value", np.zeros(len(values)))[0]


def test_bootstrap_equals_a_loop_over_the_drawn_locations():
    rng = np.random.default_rng(1)
    locations, values = rng.choice(list("abcdefgh"), 60), rng.random(60)
    bootstrap, resampled = bootstrap_of(values, locations.tolist(), seed=3)
    for draw, value in zip(bootstrap.draws[:20], resampled[:20], strict=True):
        drawn = [
            values[locations == name] for name, times in zip("abcdefgh", draw, strict=True) for _ in range(int(times))
        ]
        assert value == pytest.approx(np.concatenate(drawn).mean())
    low, high = bootstrap.interval(resampled)
    assert low < values.mean() < high
    assert resampled.equals(bootstrap_of(values, locations.tolist(), seed=3)[1])


def test_interval_equals_the_normal_approximation_and_ignores_repeated_clips():
    values = np.random.default_rng(2).random(400)
    alone, means = bootstrap_of(values, [str(number) for number in range(400)])
    low, high = alone.interval(means)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.06)
    four, means = bootstrap_of(values.repeat(4), [str(number // 4) for number in range(1600)])
    low4, high4 = four.interval(means)
    assert high4 - low4 == pytest.approx(high - low, rel=0.1)  # four times the clips, no more information
    one, means = bootstrap_of(values, ["here"] * 400)
    assert one.interval(means) is None


def test_scene_city_and_device_come_from_file_names():
    def factors(*names: str, labels: tuple[int, ...] = (0, 0, 0)) -> list[str]:
        clips = table(labels[: len(names)], np.eye(3)[: len(names)], list(names))
        return list(evaluation_figures(clips, LABELS, 0, 0)["groups"])

    tau2022 = ["airport-lisbon-1000-40000-0-a.wav", "bus-lisbon-1001-40001-9-s1.wav", "bus-oslo-2-3-4-s1.wav"]
    names = table([0, 0, 0], np.eye(3), tau2022)
    assert names.scene.tolist() == ["airport", "bus", "bus"]
    assert names.city.tolist() == ["lisbon", "lisbon", "oslo"]
    assert names.device.tolist() == ["a", "s1", "s1"]
    mobile = ["airport-lisbon-1000-40000-a.wav", "bus-oslo-1001-40001-a.wav"]
    assert factors(*mobile) == ["label", "scene", "city"]  # one device is no information
    assert factors(mobile[0], "1-100032-A-0.flac") == ["label"]
    assert factors("indoor-a-1-1-a.wav", "outdoor-b-1-1-a.wav", labels=(0, 1)) == ["label", "city"]


def test_figures_of_groups_and_mistakes_by_hand():
    probabilities = [[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1], [0.05, 0.05, 0.9]]
    names = ["park-a-1-1-a.wav", "park-a-2-1-a.wav", "bus-b-3-1-a.wav", "tram-b-4-1-a.wav"]
    figures = evaluation_figures(table([1, 1, 2, 2], probabilities, names), LABELS, 0, worst=5)
    park = figures["groups"]["scene"]["park"]
    assert (park["clips"], park["locations"], park["accuracy"], park["accuracy_interval"]) == (2, 2, 0.5, [0, 1])
    assert park["log_loss"] == pytest.approx(-np.log([0.2, 0.8]).mean())
    assert figures["groups"]["scene"]["bus"]["accuracy_interval"] is None  # a single location
    assert list(figures["groups"]["label"]) == ["outdoor", "transportation"]
    assert [mistake["filename"] for mistake in figures["worst"]] == ["audio/bus-b-3-1-a.wav", "audio/park-a-1-1-a.wav"]
    assert figures["worst"][0] == {
        "filename": "audio/bus-b-3-1-a.wav",
        "true": "transportation",
        "predicted": "indoor",
        "probability_of_true": 0.1,
        "probability_of_predicted": 0.6,
        "log_loss": pytest.approx(-np.log(0.1)),
    }
    assert figures["interval"]["macro_accuracy"] == [0, 1]
    json.dumps(figures, allow_nan=False)


def test_tables_fit_the_terminal_and_escape_control_characters():
    labels = [f"scene_with_a_long_name_{number}" for number in range(10)]
    rng = np.random.default_rng(0)
    names = [f"\x1b[2J{number}{'x' * 90}.wav" for number in range(30)]
    clips = table(rng.integers(10, size=30), rng.dirichlet(np.ones(10), 30), names, labels)
    facts = {"checkpoint": "a.ckpt", "stage": None, "data": "/data", "split": "test", "labels": labels, "notes": []}
    text = evaluation_tables(facts | evaluation_figures(clips, labels, 0, 5))
    assert "\x1b" not in text
    assert "\n1 scene_with_a_long_name_0 " in text  # numbered columns
    assert max(map(len, text.splitlines())) <= 125


def test_predictions_survive_their_file(tmp_path):
    targets, probabilities = random_predictions(20)
    names = [f'{number},"é\udce4".wav' for number in range(20)]  # not Unicode, as a file name may be
    clips = [clip(name, LABELS[target]) for name, target in zip(names, targets, strict=True)]
    path = tmp_path / "predictions.csv"
    write_predictions(path, ROOT, clips, LABELS, probabilities)
    again = read_predictions(path, LABELS)
    assert again.scene_label.map(LABELS.index).tolist() == targets.tolist()
    assert again.filename.tolist() == [f"audio/{name}" for name in names]
    np.testing.assert_allclose(again[LABELS], probabilities, atol=1e-6)
    for text in ("filename,scene_label,a\nx,b,1\n", "filename,scene_label,a\nx,a,nan\n", "filename,a\nx,1\n", ""):
        path.write_text(text)
        with pytest.raises(ValueError, match="predictions.csv cannot be read: .*; repeat or exclude the run"):
            read_predictions(path, ["a"])


def test_checkpoint_on_its_own_test_clips_has_the_results_of_its_run(trained, tmp_path, capsys):
    run, _ = trained
    main([str(run / "checkpoints/best.ckpt"), "--output", str(tmp_path)])
    assert "macro-average accuracy" in capsys.readouterr().out
    evaluation = json.loads((tmp_path / "evaluation.json").read_text())
    actual, expected = evaluation["test"], results(run)["test"]
    assert actual["confusion_matrix"] == expected["confusion_matrix"]
    assert actual["class_accuracy"] == expected["class_accuracy"]
    # the run's features come from the cache, in float16
    assert actual["log_loss"] == pytest.approx(expected["log_loss"], rel=0.01, abs=1e-3)
    assert evaluation["notes"] == []
    assert {path.name for path in tmp_path.iterdir()} == {
        *("evaluation.json", "predictions.csv", "confusion_matrix.png", "reliability.png", "accuracy_by_group.png")
    }
    ours, theirs = rows(tmp_path / "predictions.csv"), rows(run / "predictions.csv")
    assert [row["filename"] for row in ours] == [row["filename"] for row in theirs]
    assert mean(abs(float(a["indoor"]) - float(b["indoor"])) for a, b in zip(ours, theirs, strict=True)) < 0.01


def test_onnx_file_has_the_metrics_of_its_checkpoint(trained, tiny, tmp_path, capsys):
    run, _ = trained
    data = ["data=dcase", f"data.root={tiny}", f"data.cache_dir={tmp_path}"]
    printed = []
    for file in ("model.onnx", "checkpoints/best.ckpt"):
        main([str(run / file), *data, "--json", "--split", "train", "--output", str(tmp_path / "out")])
        printed.append(json.loads(capsys.readouterr().out))
    onnx, torch_ = printed
    assert onnx["clips"] == 24
    assert onnx["test"]["confusion_matrix"] == torch_["test"]["confusion_matrix"]
    assert onnx["test"]["log_loss"] == pytest.approx(torch_["test"]["log_loss"], rel=1e-3, abs=1e-4)
    assert onnx["groups"].keys() == {"label"}  # scene is the label, one city, one device


def test_other_lengths_and_orders_of_labels_are_accepted_and_other_labels_rejected(tiny, tmp_path, capsys):
    """A classifier of half-second clips at 8 kHz with the labels in another order, on clips of 2 s at 16 kHz."""
    model = classifier()
    model.labels[:] = model.hparams["labels"] = ["transportation", "indoor", "outdoor"]
    checkpoint = save(model, tmp_path / "other.ckpt")
    data = ["data=dcase", f"data.root={tiny}", f"data.cache_dir={tmp_path}"]
    main([str(checkpoint), *data, "--output", str(tmp_path / "out"), "--json"])
    evaluation = json.loads(capsys.readouterr().out)
    assert evaluation["labels"] == ["transportation", "indoor", "outdoor"]
    assert "12 of 12 clips last 2 s, not 0.5 s" in evaluation["notes"][0]
    assert sum(evaluation["test"]["confusion_matrix"][0]) == 4
    for row in rows(tmp_path / "out/predictions.csv")[:2]:
        wave = read_wave(tiny / row["filename"], model.sample_rate, model.channel, model.clip_samples)
        probability = model.probabilities(wave[None])[0, 0]
        assert probability == pytest.approx(float(row["transportation"]), abs=1e-5)

    root = tmp_path / "renamed"
    root.mkdir()
    (root / "audio").symlink_to(tiny / "audio")
    for name in ("meta.csv", "evaluation_setup/fold1_train.csv", "evaluation_setup/fold1_evaluate.csv"):
        header, *lines = (tiny / name).read_text().splitlines()
        write_list(root / name, header, [line.replace("\toutdoor", "\tforest") for line in lines])
    with pytest.raises(SystemExit, match="forest"):
        main([str(checkpoint), "data=dcase", f"data.root={root}", "--output", str(tmp_path / "none")])
    assert not (tmp_path / "none").exists()  # a failure leaves nothing


def test_clips_that_were_trained_on_are_told(trained, tiny, tmp_path, capsys):
    words = ["data=dcase", f"data.root={tiny}", "--output", str(tmp_path / "out"), "--json"]
    for split in ("test", "all"):
        main([str(trained[0] / "checkpoints/best.ckpt"), *words, "--split", split])
        notes = json.loads(capsys.readouterr().out)["notes"]
        assert any("trained on" in note for note in notes) == (split == "all")


def test_a_test_set_needs_no_training_list_and_any_list_will_do(tiny, tmp_path, capsys):
    checkpoint = str(save(classifier(), tmp_path / "alone.ckpt"))

    def evaluated(*words: str) -> tuple[str, int, list[int]]:
        """The split, and numbers of clips and of those of each class."""
        main([checkpoint, *map(str, words), "--output", str(tmp_path / "out"), "--json"])
        told = json.loads(capsys.readouterr().out)
        return told["split"], told["clips"], [sum(row) for row in told["test"]["confusion_matrix"]]

    root = tmp_path / "test only"
    (root / "evaluation_setup").mkdir(parents=True)
    (root / "audio").symlink_to(tiny / "audio")
    rows = [f"audio\\indoor-oslo-{place}-0-a.wav;indoor" for place in range(3)]
    write_list(root / "evaluation_setup/fold1_evaluate.csv", "filename;scene_label", rows)
    assert evaluated("data=dcase", f"data.root={root}") == ("test", 3, [3, 0, 0])
    assert evaluated("data=dcase", f"data.root={root}", "--split", "all") == ("all", 3, [3, 0, 0])
    assert evaluated("data=dcase", f"data.root={tiny}", "--split", "all") == ("all", 36, [12, 12, 12])
    write_list(
        root / "mine, all.csv", "filename,scene_label,identifier", ["audio/outdoor-oslo-100-0-a.wav,outdoor,here"]
    )
    assert evaluated("--list", root / "mine, all.csv") == ("list", 1, [0, 1, 0])
    (root / "mine, all.csv").rename(tmp_path / "elsewhere.csv")
    assert evaluated("--list", tmp_path / "elsewhere.csv", f"data.root={tiny}") == ("list", 1, [0, 1, 0])
    with pytest.raises(SystemExit, match="1 of 1 recordings are missing .*: check data.root="):
        main([checkpoint, "--list", str(tmp_path / "elsewhere.csv")])


def test_all_recordings_of_a_folder_or_of_a_class_are_evaluated(tiny, tmp_path, capsys):
    checkpoint, root = str(save(classifier(), tmp_path / "alone.ckpt")), tmp_path / "data"
    for path in tiny.glob("audio/*-0-a.wav"):
        copy = root / path.name.partition("-")[0] / path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.symlink_to(path)
    words = [checkpoint, "data=folder", f"data.root={root}", "--output", str(tmp_path / "out")]
    main([*words, "--split", "all"])
    assert f"on all clips of {root}: 72 clips from 18 locations" in capsys.readouterr().out
    main(words)
    assert "of 18 recordings are test recordings: --split all evaluates all" in capsys.readouterr().out
    for label in ("outdoor", "transportation"):
        (root / label).rename(tmp_path / label)
    (root / "indoor").rename(tmp_path / "indoor")
    (root / "test").mkdir()
    (tmp_path / "indoor").rename(root / "test/indoor")  # a test folder alone, with one class
    main(words)
    assert f"on the test clips of {root}: 24 clips from 6 locations" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", [["data=nothing"], ["data=dcase"], ["nothing"], ["seed=3"], ["--worst", "-1"]], ids=str
)
def test_bad_arguments_get_one_sentence_and_leave_nothing(trained, tmp_path, words):
    checkpoint, alone = trained[0] / "checkpoints/best.ckpt", save(classifier(), tmp_path / "alone.ckpt")
    for arguments in ([checkpoint, *words], [alone], [checkpoint, "--output", trained[0]]):
        with pytest.raises(SystemExit, match="^error: ") as stop:
            main(["--output", str(tmp_path / "out"), *map(str, arguments)])
        assert "\n" not in str(stop.value)
    assert not (tmp_path / "out").exists()
